"""Hooks: what an app can do around a sweep, and what it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from lr_study.space import Cell


@dataclass(frozen=True)
class Sweep:
    """A sweep about to start: its name, its base configuration (with the `hydra` node), its cells."""

    name: str
    config: DictConfig
    cells: Sequence[Cell]
    total_trials: int
    finished_trials: int


@dataclass(frozen=True)
class Progress:
    """How many trials have finished and failed, of how many."""

    finished: int
    failed: int
    total: int


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: `complete`, `failed` or `interrupted`."""

    status: str
    progress: Progress


@dataclass(frozen=True)
class Abandoned:
    """A trial that a driver closed, since its own process could not.

    Attributes:
        study, number: its address in Optuna.
        status: `lost` (its driver died), `interrupted`, or `failed` (its own process died).
    """

    study: str
    number: int
    status: str


@dataclass(frozen=True)
class FixedTrial:
    """A trial at a given point, outside the search.

    Attributes:
        cell: name of the cell it belongs to.
        params: a value for each of the cell's dimensions.
        replicate: value of the replicate key, or None.
        phase: its purpose.
    """

    cell: str
    params: Mapping[str, Any]
    replicate: str | None = None
    phase: str = "confirm"


class Hooks:
    """Methods that the sweeper calls in its own process. An exception in one of them ends the sweep."""

    def check(self, cells: Sequence[Cell], replicates: Sequence[Any]) -> None:
        """Raise to refuse the request. Nothing has been written yet.

        Args:
            cells: whose configurations are composed.
            replicates: the values that `hydra.sweeper.replicate_key` takes in turn, in all cells.
        """

    def started(self, sweep: Sweep) -> Mapping[str, str]:
        """Return overrides for every job. Called before the first trial."""
        return {}

    def wave_done(self, progress: Progress) -> None:
        """Called after each wave of trials."""

    def abandoned(self, trials: Sequence[Abandoned]) -> None:
        """Called when the driver has closed trials for their processes; `trials` is never empty."""

    def further_trials(self, sweep: Sweep) -> Sequence[FixedTrial]:
        """Return further trials to run. Called when the search is done, and again when these trials are.

        A trial with the same cell, parameters, replicate and phase as a finished one is not run again, so the same
        trials may be returned each time. The sweep ends when there is no new one.
        """
        return ()

    def ended(self, outcome: Outcome) -> None:
        """Called at the end, after a failure or an interruption too."""
