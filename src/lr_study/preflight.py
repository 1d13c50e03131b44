"""Trying the sampler and the pruner out before anything starts, so that what is wrong with them shows now."""

import math
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from lr_study.build import directions_of, make_pruner, make_sampler
from lr_study.errors import SweepRequestError, reason_of
from lr_study.intervals import Intervals
from lr_study.space import Request

# More trials than a sampler draws at random before its model takes over (Optuna's default is ten).
HISTORY = 12


def try_out(request: Request, options: DictConfig) -> None:
    """Build sampler and pruner, and let the sampler propose on a made-up history of the first searched cell.

    A sampler imports what it needs when its model first takes over: after ten trials of real work, too late.

    Raises:
        SweepRequestError: one of them can't be built, or the sampler can't propose here.
    """
    directions = directions_of(options)
    if options.pruner and options.pruner.get("_target_"):
        pruner = make_pruner(options.pruner)
        if len(directions) > 1 and not isinstance(pruner, optuna.pruners.NopPruner):
            raise SweepRequestError(
                f"hydra.sweeper.pruner: no pruner works with {len(directions)} objectives."
                "\nTake hydra/sweeper/pruner=none."
            )
    cell = next((cell for cell in request.cells if cell.dimensions), None)
    if cell is None:
        return
    sampler = make_sampler(options.sampler, options.seed, "", HISTORY, len(request.replicates))
    study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(0))
    space = Intervals(cell.dimensions, 0).searched()
    for index in range(HISTORY):
        study.add_trial(_made_up(space, index / HISTORY, len(directions)))
    study.sampler = sampler
    try:
        study.ask(space)
    except ImportError as error:
        raise SweepRequestError(
            f"hydra.sweeper.sampler._target_={options.sampler._target_}: it needs a package that is not installed "
            f"({error.name or reason_of(error)}).\nInstall it, or choose another sampler: hydra/sweeper/sampler=tpe."
        ) from error
    except Exception as error:
        raise SweepRequestError(
            f"hydra.sweeper.sampler._target_={options.sampler._target_}: it can't search here ({reason_of(error)})."
            "\nChoose another sampler: hydra/sweeper/sampler=tpe."
        ) from error


def _made_up(space: dict[str, BaseDistribution], share: float, objectives: int) -> Any:
    params = {}
    for key, distribution in space.items():
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high = distribution.low, distribution.high
        if distribution.log:
            value = min(max(math.exp(math.log(low) + share * math.log(high / low)), low), high)
        else:
            value = low + share * (high - low)
        params[key] = int(value) if isinstance(distribution, IntDistribution) else value
    return create_trial(
        state=TrialState.COMPLETE,
        values=[1 + (share - 0.4) ** 2] * objectives,
        params=params,
        distributions=space,
        user_attrs={"replicate": "0", "status": "complete"},
    )
