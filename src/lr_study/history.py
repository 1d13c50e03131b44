"""The trials of a study, slot by slot, and the attributes that each trial carries in Optuna's storage.

A *slot* is a trial that the study needs: the n-th of its search, or a further trial at a given point. An attempt at a
slot may be lost, because its driver died or was interrupted. The next attempt is a trial with a new number, the same
parameters and the same replicate. A slot has ended when an attempt at it is complete, pruned or failed.

User attributes of a trial:

- written by the driver, in one record with the trial: `phase` (`search`, `confirm`, …), `slot` (its index in the
  search; further trials have none), `replicate`, `retry_of` (number of the lost attempt), `wave` (see `study.Wave`),
  `driver` (address of the driver's lease).
- written by the trial's own process: `process` (who runs it, renewed every 10 s), `last_step`; with the result
  `seconds`, `error`, `traceback` and the attributes of the app.
- written by a driver that closes the trial: `lost`, `interrupted`, `error` or `void` (see `lr_study.stored_study`).
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState


@dataclass
class Slot:
    """A slot that has not ended.

    Attributes:
        attempt: the latest attempt at it.
        losses: how many attempts died with their driver.
    """

    attempt: FrozenTrial
    losses: int = 0

    @property
    def waiting(self) -> bool:
        """Whether the slot needs another attempt, since the latest was lost."""
        return is_lost(self.attempt)


class History:
    """A study's trials, taken in one by one in the order of their numbers.

    Attributes:
        slots: those that have not ended, by `slot_key`.
        ended: the trial that ended each other slot, by `slot_key`.
        next: index of the first slot of the search that no trial was made for.
        failed: the trials among `ended` that raised an error, in the order in which they were taken in.
    """

    def __init__(self) -> None:
        self.slots: dict[int | str, Slot] = {}
        self.ended: dict[int | str, FrozenTrial] = {}
        self.next = 0
        self.failed: list[FrozenTrial] = []

    def take(self, trial: FrozenTrial) -> None:
        """Take in a trial as it is now. A later attempt at a slot replaces the earlier one."""
        key = slot_key(trial.user_attrs, trial.params)
        slot = self.slots.setdefault(key, Slot(trial))
        slot.attempt = trial
        if isinstance(key, int):
            self.next = max(self.next, key + 1)
        if slot.waiting:
            slot.losses += not trial.user_attrs.get("interrupted", False)
        elif trial.state.is_finished():
            del self.slots[key]
            self.ended[key] = trial
            if trial.state is TrialState.FAIL:
                self.failed.append(trial)

    def searched(self) -> list[FrozenTrial]:
        """The latest attempt at each slot of the search, in order."""
        latest = self.ended | {key: slot.attempt for key, slot in self.slots.items()}
        return [latest[key] for key in sorted(key for key in latest if isinstance(key, int))]

    def further(self) -> int:
        """How many slots lie outside the search."""
        return sum(isinstance(key, str) for key in [*self.slots, *self.ended])

    def mean_seconds(self) -> float:
        """Mean length of a finished trial in seconds; infinite before the first."""
        seconds = [trial.user_attrs["seconds"] for trial in self.ended.values() if "seconds" in trial.user_attrs]
        return statistics.fmean(seconds) if seconds else float("inf")


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a driver closed the trial because nobody ran it any more."""
    return trial.state is TrialState.FAIL and bool(trial.user_attrs.get("lost"))


def slot_key(attributes: Mapping[str, Any], params: Mapping[str, Any]) -> int | str:
    """Identify a trial's slot: by its index in the search, else by phase, replicate and parameters."""
    if attributes.get("slot") is not None:
        return int(attributes["slot"])
    return json.dumps([attributes.get("phase"), attributes.get("replicate"), params], sort_keys=True)
