"""What an app can do around a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from omegaconf import DictConfig

from hydra_plugins.lr_study_sweeper._space import Cell


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


class Hooks(Protocol):
    """Called by the sweeper, in its own process; an exception in one of them ends the sweep."""

    def check(self, cells: Sequence[Cell]) -> None:
        """Refuse the request by raising; nothing has been written yet."""

    def started(self, sweep: Sweep) -> Mapping[str, str]:
        """Called before the first trial; returns overrides that every job gets."""
        ...

    def wave_done(self, progress: Progress) -> None:
        """Called after each wave of trials."""

    def ended(self, outcome: Outcome) -> None:
        """Called at the end, also after a failure or an interruption."""


class NoHooks:
    """An app without hooks."""

    def check(self, cells: Sequence[Cell]) -> None:
        """Accept."""

    def started(self, sweep: Sweep) -> Mapping[str, str]:
        """Add nothing."""
        return {}

    def wave_done(self, progress: Progress) -> None:
        """Say nothing."""

    def ended(self, outcome: Outcome) -> None:
        """Do nothing."""
