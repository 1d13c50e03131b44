"""What is known of a study's trials: which slots have ended, which wait, and which run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState


@dataclass
class Slot:
    """A trial that has to be and hasn't ended, through all attempts at it.

    Attributes:
        attempt: the latest trial made for it.
        losses: attempts that died with their driver.
    """

    attempt: FrozenTrial
    losses: int = 0

    @property
    def waiting(self) -> bool:
        """Whether no attempt is running: the latest was lost."""
        return is_lost(self.attempt)


class History:
    """A study's stored trials, taken in one by one in order of number.

    Attributes:
        slots: by key, those that have not ended.
        ended: keys of those that have.
        next: the first slot of the search that was never asked for.
        replicates: those with which a trial of the search was asked for.
        finished, failed, errors, last_failed: of the trials that ended.
    """

    def __init__(self) -> None:
        self.slots: dict[Any, Slot] = {}
        self.ended: set[Any] = set()
        self.next = 0
        self.replicates: set[str | None] = set()
        self.finished = 0
        self.failed = 0
        self.errors: set[str] = set()
        self.last_failed: FrozenTrial | None = None
        self._seconds, self._timed = 0.0, 0

    def take(self, trial: FrozenTrial) -> None:
        """Take in a trial as it now is; a later attempt at a slot replaces the earlier."""
        key = slot_key(trial)
        slot = self.slots.setdefault(key, Slot(trial))
        slot.attempt = trial
        if isinstance(key, int):
            self.next = max(self.next, key + 1)
            self.replicates.add(trial.user_attrs.get("replicate"))
        if slot.waiting:
            slot.losses += not trial.user_attrs.get("interrupted", False)
        elif trial.state.is_finished():
            del self.slots[key]
            self.ended.add(key)
            self._count(trial)

    def _count(self, trial: FrozenTrial) -> None:
        self.finished += 1
        if "seconds" in trial.user_attrs:
            self._seconds += trial.user_attrs["seconds"]
            self._timed += 1
        if trial.state is TrialState.FAIL:
            self.failed += 1
            self.errors.add(str(trial.user_attrs.get("error")))
            self.last_failed = trial

    def waiting(self) -> Iterator[Slot]:
        """Slots whose latest attempt was lost."""
        return (slot for slot in list(self.slots.values()) if slot.waiting)

    def further(self) -> int:
        """How many trials outside the search were asked for."""
        return sum(isinstance(key, str) for key in [*self.slots, *self.ended])

    def mean_seconds(self) -> float:
        """Mean length of a finished trial in seconds; infinite before the first."""
        return self._seconds / self._timed if self._timed else float("inf")


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial was closed because nobody looked after it."""
    return trial.state is TrialState.FAIL and bool(trial.user_attrs.get("lost"))


def slot_key(trial: FrozenTrial) -> int | str:
    """What makes two trials attempts at the same slot: its index, or what a further trial was asked for with."""
    index = trial.user_attrs.get("slot")
    if index is not None:
        return int(index)
    return json.dumps([trial.user_attrs.get("phase"), trial.user_attrs.get("replicate"), trial.params], sort_keys=True)
