"""One cell's search: which trials it still needs, and what it learns from those that ended.

A driver calls, in this order:

1. `open` and `load`: read the study's history, and close the trials that dead drivers left running.
2. `ask`: make the study's trials of the next *wave*, which the launcher then runs.
3. `collect`: take in how they ended. The results of a wave are shown to the sampler together, at its end.

A wave's plan is stored with each of its trials. So a driver that resumes a sweep first finishes the interrupted wave,
and then takes the same steps as an uninterrupted driver.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from lr_study.build import directions_of, make_sampler
from lr_study.history import History, slot_key
from lr_study.hooks import FixedTrial
from lr_study.intervals import Intervals
from lr_study.launching import Job
from lr_study.proposals import Proposals
from lr_study.stored_study import StoredStudy
from lr_study.trial import TrialAddress

log = logging.getLogger(__name__)


class Wave(NamedTuple):
    """A wave as a study planned it.

    Attributes:
        number: from 0; the same in all studies of a sweep.
        share: new slots for each study.
        first, end: this study's new slots, from `first` up to but without `end`.
    """

    number: int = -1
    share: int = 0
    first: int = 0
    end: int = 0


class CellStudy:
    """An Optuna study that searches one cell, driven slot by slot (see `lr_study.history`).

    Args:
        stored: the study in the storage.
        replicates: values that slots take in turn, written to `replicate_key`.
        options: `hydra.sweeper`.

    Attributes:
        wave: the latest wave it took part in.
    """

    def __init__(self, stored: StoredStudy, replicates: Sequence[str | None], options: DictConfig) -> None:
        self.stored = stored
        self.cell = stored.cell
        self.name = stored.name
        self.history = History()
        self.wave = Wave()
        self._replicates = replicates
        self._options = options
        # None without an interval: nothing is learned from the trials of a grid.
        self._proposals: Proposals | None = None
        if self.cell.dimensions:
            intervals = Intervals(self.cell.dimensions, options.widenings)
            self._proposals = Proposals(self._sampler, directions_of(options), intervals)

    def _sampler(self, slot: int) -> BaseSampler:
        return make_sampler(self._options.sampler, self._options.seed, self.name, slot, len(self._replicates))

    def open(self) -> None:
        """Create the study, or resume it where it exists."""
        attributes = self.stored.open(directions_of(self._options))
        if self._proposals is not None:
            self._proposals.intervals.restore(attributes.get("widened", []))

    def load(self) -> None:
        """Read the history, and close trials whose driver is dead as lost."""
        self.history = History()
        planned = []
        for trial in self.stored.trials():
            elsewhere = self.stored.is_elsewhere(trial)
            if trial.state is TrialState.RUNNING and not self.stored.is_mine(trial) and not elsewhere:
                slot = self.history.slots.get(slot_key(trial.user_attrs, trial.params))
                trial = self.stored.close_lost(trial, losses=0 if slot is None else slot.losses)
            self.history.take(trial)
            # Another driver that is alive finishes its own waves.
            if "wave" in trial.user_attrs and not elsewhere:
                planned.append(trial.user_attrs["wave"])
        self.wave = Wave(*max(planned)) if planned else Wave()
        if self._proposals is not None:
            # Results of an unfinished wave are told at its end: the sampler must know no more than the first time.
            current = range(self.wave.first, self.wave.end) if self._is_wave_unfinished() else ()
            self._proposals.restore(self.history.searched(), told=self.history.ended.keys() - set(current))

    # What it still needs.

    @property
    def n_trials(self) -> int:
        """Slots that the search must have; without an interval one for each replicate."""
        return int(self._options.n_trials) if self.cell.dimensions else len(self._replicates)

    @property
    def total(self) -> int:
        """How many slots there will be, as far as is known."""
        return max(self.n_trials, self.history.next) + self.history.further()

    def is_open(self) -> bool:
        """Whether slots are missing, waiting or running (here or elsewhere)."""
        return bool(self.history.slots) or bool(self._missing())

    def is_behind(self, wave: int) -> bool:
        """Whether it still has to do its part of `wave`, the latest that was begun."""
        return self.is_open() and (self.wave.number < wave or self._is_wave_unfinished())

    def _is_wave_unfinished(self) -> bool:
        """Whether this driver has slots of the current wave to run or to ask for."""
        slots = [self.history.slots.get(index) for index in range(self.wave.first, self.wave.end)]
        mine = any(slot and (slot.waiting or self.stored.is_mine(slot.attempt)) for slot in slots)
        return mine or self.history.next < self.wave.end

    def _missing(self) -> list[tuple[int, str | None]]:
        """(slot, replicate) of the slots that no trial was made for."""
        first, replicates = self.history.next, self._replicates
        if self.cell.dimensions:
            return [(slot, replicates[slot % len(replicates)]) for slot in range(first, self.n_trials)]
        made = {trial.user_attrs.get("replicate") for trial in self.history.searched()}
        return list(enumerate((r for r in replicates if r not in made), start=first))

    # Asking for trials.

    def ask(self, wave: int, share: int) -> list[Job]:
        """Make this study's trials of a wave.

        First come retries of lost trials, and the slots that the current wave lacks. Where there are none, a new wave
        begins.
        """
        waiting = [slot for slot in self.history.slots.values() if slot.waiting]
        jobs = [job for slot in waiting if (job := self._retry(slot.attempt))]
        missing = self._missing()
        if not jobs and not self._is_wave_unfinished():
            first = self.history.next
            self.wave = Wave(wave, share, first, first + min(share, len(missing)))
        for index, replicate in missing:
            # Where another driver was faster, this one's history was out of date: it asks again later.
            if index >= self.wave.end or (job := self._new(index, replicate)) is None:
                break
            jobs.append(job)
        return jobs

    def ask_fixed(self, wanted: FixedTrial) -> Job | None:
        """Make a further trial at a given point, unless it has been run, or is running elsewhere."""
        params = {dimension.key: wanted.params[dimension.key] for dimension in self.cell.dimensions}
        if self._proposals is not None:
            self._proposals.include(params)
        attributes = {"phase": wanted.phase} | _replicate(wanted.replicate)
        key = slot_key(attributes, params)
        if (slot := self.history.slots.get(key)) is not None:
            return self._retry(slot.attempt) if slot.waiting else None
        return None if key in self.history.ended else self._start(params, attributes)

    def _retry(self, lost: FrozenTrial) -> Job | None:
        kept = {key: lost.user_attrs[key] for key in ("phase", "slot", "replicate", "wave") if key in lost.user_attrs}
        return self._start(lost.params, kept | {"retry_of": lost.number})

    def _new(self, index: int, replicate: str | None) -> Job | None:
        attributes = {"phase": "search", "slot": index, "wave": list(self.wave)} | _replicate(replicate)
        if self._proposals is None:
            return self._start({}, attributes)
        params, system_attrs = self._proposals.propose(self.cell.start if index == 0 else None, attributes)
        return self._start(params, attributes, system_attrs)

    def _start(
        self, params: Mapping[str, Any], attributes: Mapping[str, Any], system_attrs: Mapping[str, Any] | None = None
    ) -> Job | None:
        distributions = {} if self._proposals is None else self._proposals.intervals.stored()
        trial = self.stored.add(params, distributions, attributes, system_attrs or {})
        if trial is None:
            self.load()  # another driver was faster
            return None
        self.history.take(trial)
        values = [f"{key}={value!r}" for key, value in trial.params.items()]
        if "replicate" in attributes:
            values.append(f"{self._options.replicate_key}={attributes['replicate']}")
        address = TrialAddress(
            study=self.name,
            trial_id=self.stored.trial_id(trial),
            number=trial.number,
            cell=self.cell.name,
            phase=attributes["phase"],
            retry_of=attributes.get("retry_of"),
        )
        return Job(self.stored, address, tuple(values))

    # How trials ended.

    def collect(self, jobs: Sequence[Job]) -> None:
        """Take in how the trials of `jobs` ended. At the wave's end, show its results to the sampler."""
        for job in jobs:
            self.history.take(self.stored.trial(job.address.trial_id))
        if self._proposals is None or self._is_wave_unfinished():
            return
        self._proposals.tell(self.history.ended)
        grown = self._proposals.widen(self.wave.number)
        if grown is not None:
            self.stored.set_attribute("widened", self._proposals.intervals.widened)
            text = "%s: the best %s lies at the end of its interval, which is now %.3g to %.3g."
            log.info(text, self.name, grown.key, grown.low, grown.high)

    def interrupt(self) -> None:
        """Close this driver's running trials as interrupted. They are repeated when the sweep is resumed."""
        for slot in self.history.slots.values():
            if self.stored.is_mine(slot.attempt) and not slot.waiting:
                self.stored.close(
                    self.stored.trial_id(slot.attempt), "interrupted", {"lost": True, "interrupted": True}
                )


def _replicate(replicate: str | None) -> dict[str, Any]:
    return {} if replicate is None else {"replicate": replicate}
