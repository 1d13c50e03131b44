"""Making the sampler and the pruner that a configuration names."""

import hashlib
import importlib
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, QMCSampler
from optuna.study import StudyDirection

from lr_study.errors import SweepRequestError, reason_of


def directions_of(options: DictConfig) -> list[StudyDirection]:
    """`hydra.sweeper.direction` for each objective."""
    given = [options.direction] if isinstance(options.direction, str) else options.direction
    return [StudyDirection[str(direction).upper()] for direction in given]


def make_sampler(node: DictConfig, seed: int, study: str, slot: int, replicates: int) -> BaseSampler:
    """Make the sampler for one slot; its randomness follows from the arguments, not from the process's history.

    Args:
        node: its configuration; `seed` and `repeats` are filled in where it takes them and has none.
        seed, study, slot: what its seed follows from.
        replicates: how many values the replicate key takes in turn.

    Raises:
        SweepRequestError: there is no such sampler, or it refuses its arguments.
    """
    arguments = _plain(node)
    target = arguments.get("_target_")

    def complete() -> dict[str, Any]:
        # Not Hydra's get_class: it prints several lines of its own where there is none.
        module, _, name = str(target).rpartition(".")
        sampler_class = getattr(importlib.import_module(module), name)
        # A quasi-random sequence is one for the whole study; the study remembers the place in it.
        of_slot = () if issubclass(sampler_class, QMCSampler) else (slot,)
        digest = hashlib.sha256(repr((seed, study, *of_slot)).encode()).digest()
        ours = {"seed": int.from_bytes(digest[:4], "big"), "repeats": replicates}
        taken = inspect.signature(sampler_class).parameters
        return {key: value for key, value in ours.items() if key in taken} | arguments

    return _make("sampler", target, complete, BaseSampler)


def make_pruner(node: Mapping[str, Any]) -> BasePruner:
    """Make the pruner that `node` names.

    Raises:
        SweepRequestError: there is no such pruner, or it refuses its arguments.
    """
    arguments = _plain(node)
    return _make("pruner", arguments.get("_target_"), lambda: arguments, BasePruner)


def _plain(node: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    return plain


def _make(what: str, target: Any, arguments: Any, base: type) -> Any:
    given = f"hydra.sweeper.{what}._target_={target}"
    try:
        with warnings.catch_warnings():
            # Optuna calls half of its samplers experimental; whoever chooses one here has chosen it.
            warnings.simplefilter("ignore", ExperimentalWarning)
            made = instantiate(arguments(), _convert_="all")
    except Exception as error:
        raise SweepRequestError(f"{given}: {reason_of(error)}.\n{_hint(what)}") from error
    if not isinstance(made, base):
        raise SweepRequestError(f"{given} is not an Optuna {what}.\n{_hint(what)}")
    return made


def _hint(what: str) -> str:
    ready = {
        "sampler": "tpe, gp, cmaes, qmc, grid, random",
        "pruner": "none, median, hyperband, successive_halving",
    }
    return f"Ready to choose, with hydra/sweeper/{what}=NAME: {ready[what]}."
