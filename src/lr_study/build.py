"""Make the sampler and the pruner that a configuration names, and try them before anything starts."""

import hashlib
import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler
from optuna.study import StudyDirection

from lr_study.errors import SweepRequestError, reason_of
from lr_study.intervals import Intervals
from lr_study.space import Request

# How many random trials a sampler is shown: more than it draws itself before its model takes over (by default ten).
HISTORY = 12
_READY = {
    "sampler": "tpe, gp, cmaes, qmc, grid, random",
    "pruner": "none, median, hyperband, successive_halving",
}


def directions_of(options: DictConfig) -> list[StudyDirection]:
    """`hydra.sweeper.direction` for each objective."""
    given = [options.direction] if isinstance(options.direction, str) else options.direction
    return [StudyDirection[str(direction).upper()] for direction in given]


def make_sampler(node: DictConfig, seed: int, study: str, slot: int, replicates: int) -> BaseSampler:
    """Make the sampler for one slot. Its randomness follows from the arguments, not from what the process did before.

    Args:
        node: its configuration; `seed` and `repeats` are filled in where it takes them and has none.
        seed, study, slot: what its seed follows from.
        replicates: how many values the replicate key takes in turn.

    Raises:
        SweepRequestError: there is no such sampler, or it refuses its arguments.
    """
    return _make("sampler", BaseSampler, node, lambda target: _seeded(target, seed, study, slot, replicates))


def _seeded(target: str, seed: int, study: str, slot: int, replicates: int) -> dict[str, Any]:
    """Arguments that the sampler named `target` takes from the sweep."""
    # Not Hydra's get_class, which prints an error of several lines where there is no such class.
    module, _, name = target.rpartition(".")
    sampler_class = getattr(importlib.import_module(module), name)
    # A quasi-random sequence is one for the whole study, which remembers the place in it.
    of_slot = () if issubclass(sampler_class, QMCSampler) else (slot,)
    digest = hashlib.sha256(repr((seed, study, *of_slot)).encode()).digest()
    ours = {"seed": int.from_bytes(digest[:4], "big"), "repeats": replicates}
    return {key: value for key, value in ours.items() if key in inspect.signature(sampler_class).parameters}


def make_pruner(node: Mapping[str, Any]) -> BasePruner:
    """Make the pruner that `node` names, or raise SweepRequestError as `make_sampler`."""
    return _make("pruner", BasePruner, node, lambda target: {})


def _make(what: str, base: type, node: Any, defaults: Callable[[str], dict[str, Any]]) -> Any:
    arguments: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    given = f"hydra.sweeper.{what}._target_={arguments.get('_target_')}"
    ready = f"Ready to choose, with hydra/sweeper/{what}=NAME: {_READY[what]}."
    try:
        with warnings.catch_warnings():
            # Optuna calls half of its samplers experimental. Whoever names one has chosen it.
            warnings.simplefilter("ignore", ExperimentalWarning)
            made = instantiate(defaults(str(arguments.get("_target_"))) | arguments, _convert_="all")
    except Exception as error:
        raise SweepRequestError(f"{given}: {reason_of(error)}.\n{ready}") from error
    if not isinstance(made, base):
        raise SweepRequestError(f"{given} is not an Optuna {what}.\n{ready}")
    return made


def try_out(request: Request, options: DictConfig) -> None:
    """Build sampler and pruner. Record random trials for the first cell that has an interval, and propose one more.

    A sampler imports what its model needs when the model first takes over: after ten real trials, which is too late.

    Raises:
        SweepRequestError: one of them can't be built, or the sampler can't propose here.
    """
    directions = directions_of(options)
    if options.pruner and options.pruner.get("_target_"):
        pruner = make_pruner(options.pruner)
        if len(directions) > 1 and not isinstance(pruner, NopPruner):
            raise SweepRequestError(
                f"hydra.sweeper.pruner: no pruner works with {len(directions)} objectives."
                "\nTake hydra/sweeper/pruner=none."
            )
    cell = next((cell for cell in request.cells if cell.dimensions), None)
    if cell is None:
        return
    given = f"hydra.sweeper.sampler._target_={options.sampler._target_}"
    sampler = make_sampler(options.sampler, options.seed, "", HISTORY, len(request.replicates))
    study = optuna.create_study(directions=directions, sampler=RandomSampler(0))
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
