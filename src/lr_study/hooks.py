"""What an app can do around a sweep."""

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
    """How far a sweep has come."""

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
    """A trial that could not end by itself, as its driver ended it.

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
        phase: what it is for.
    """

    cell: str
    params: Mapping[str, Any]
    replicate: str | None = None
    phase: str = "confirm"


class Hooks:
    """Called by the sweeper, in its own process; an exception in one of them ends the sweep.

    Override what is needed.
    """

    def check(self, cells: Sequence[Cell]) -> None:
        """Refuse the request by raising; nothing has been written yet."""

    def started(self, sweep: Sweep) -> Mapping[str, str]:
        """Called before the first trial; returns overrides that every job gets."""
        return {}

    def wave_done(self, progress: Progress) -> None:
        """Called after each wave of trials."""

    def abandoned(self, trials: Sequence[Abandoned]) -> None:
        """Called when the driver has closed trials that could not do so themselves; never with none."""

    def further_trials(self, sweep: Sweep) -> Sequence[FixedTrial]:
        """Called when the search is done, and again when what it asked for is: further trials to run.

        A trial with the same cell, parameters, replicate and phase as a finished one is not run again, so
        that the same answer may be given each time; the sweep ends when nothing new is in it.
        """
        return ()

    def ended(self, outcome: Outcome) -> None:
        """Called at the end, also after a failure or an interruption."""
