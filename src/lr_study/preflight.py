"""Try the sampler and the pruner before anything starts, so that their errors show now."""

import optuna
from omegaconf import DictConfig

from lr_study.build import directions_of, make_pruner, make_sampler
from lr_study.errors import SweepRequestError, reason_of
from lr_study.intervals import Intervals
from lr_study.space import Request

# More trials than a sampler draws at random before its model takes over (Optuna's default is ten).
HISTORY = 12


def try_out(request: Request, options: DictConfig) -> None:
    """Build sampler and pruner, and let the sampler propose after random trials of the first cell that is searched.

    A sampler imports what its model needs when the model first takes over: after ten real trials, which is too late.

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
    given = f"hydra.sweeper.sampler._target_={options.sampler._target_}"
    sampler = make_sampler(options.sampler, options.seed, "", HISTORY, len(request.replicates))
    study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(0))
    space = Intervals(cell.dimensions, 0).searched()
    for number in range(HISTORY):
        trial = study.ask(space)
        trial.set_user_attr("replicate", "0")
        trial.set_user_attr("status", "complete")
        study.tell(trial, [float(number)] * len(directions))
    study.sampler = sampler
    try:
        study.ask(space)
    except ImportError as error:
        raise SweepRequestError(
            f"{given}: it needs a package that is not installed ({error.name or reason_of(error)})."
            "\nInstall the package, or choose another sampler: hydra/sweeper/sampler=tpe."
        ) from error
    except Exception as error:
        raise SweepRequestError(
            f"{given}: it can't search here ({reason_of(error)}).\nChoose another sampler: hydra/sweeper/sampler=tpe."
        ) from error
