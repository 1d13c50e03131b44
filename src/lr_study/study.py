"""One cell's search: asking for the trials it still needs, and taking in how they ended."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from lr_study import lease
from lr_study.build import directions_of, make_sampler
from lr_study.errors import SweepRequestError
from lr_study.history import History, is_lost, slot_key
from lr_study.hooks import Abandoned, FixedTrial
from lr_study.identity import difference
from lr_study.intervals import Intervals
from lr_study.process import is_alive, is_me
from lr_study.proposals import Proposals
from lr_study.space import Cell
from lr_study.trial import TrialAddress

log = logging.getLogger(__name__)

SEARCH = "search"
# A trial that ran inside its driver's own process, and died with it so often, is taken to be the reason, and fails.
MOST_LOSSES = 3


@dataclass(frozen=True)
class Job:
    """A trial that was asked for, as a Hydra job: its cell's overrides, and its own values after them."""

    study: "CellStudy"
    address: TrialAddress
    values: tuple[str, ...]


@dataclass
class _Wave:
    """The latest wave a study took part in: its number, its share for each study, and the slots planned here."""

    number: int = -1
    share: int = 0
    first: int = 0
    end: int = 0
    results: dict[int, FrozenTrial] = field(default_factory=dict)  # those that the sampler has not been told

    def planned(self) -> list[int]:
        return [self.number, self.share, self.first, self.end]


class CellStudy:
    """An Optuna study that searches one cell, driven slot by slot.

    A slot is a trial that the search must have; where an attempt at it is lost, the next has another number,
    the same parameters and the same replicate. A study is complete when each of its slots has ended.

    Args:
        sweep: the sweep's name.
        cell: what it searches.
        replicates: values that slots take in turn, written to `replicate_key`.
        options: `hydra.sweeper`.
        storage: Optuna's.
        shared: whether other drivers may work on the same study.

    Attributes:
        history: what is known of its trials.
        abandoned: trials that were closed here because they could not close themselves.
    """

    def __init__(
        self,
        sweep: str,
        cell: Cell,
        replicates: Sequence[str | None],
        options: DictConfig,
        storage: BaseStorage,
        shared: bool,
    ) -> None:
        self.cell = cell
        self.name = f"{sweep}/{cell.name}" if cell.name else sweep
        self.history = History()
        self.abandoned: list[Abandoned] = []
        self._sweep = sweep
        self._replicates = replicates
        self._options = options
        self._storage = storage
        self._shared = shared
        self._study_id = -1
        self._driver: list[Any] | None = None
        self._live_drivers: dict[str, bool] = {}
        self._wave = _Wave()
        self._intervals = Intervals(cell.dimensions, options.widenings)
        self._proposals: Proposals | None = None

    # What it is, in the storage.

    def check_same(self, attributes: Mapping[str, Any]) -> None:
        """Refuse to go on with a study that was made from another configuration.

        Raises:
            SweepRequestError: with the first differences.
        """
        different = difference(
            attributes.get("config", self.cell.identity), self.cell.identity, self._options.may_change
        )
        if different:
            shown = "; ".join(different[:3]) + (f"; and {len(different) - 3} more" if len(different) > 3 else "")
            raise SweepRequestError(
                f"The sweep {self._sweep} exists with another configuration: {shown}."
                "\nGo back to that one, or give this sweep another name."
            )

    def open(self, existing: Mapping[str, int]) -> int:
        """Create the study, or take up what there is of it; returns its id in the storage."""
        directions = directions_of(self._options)
        try:
            self._study_id = existing.get(self.name, -1)
            if self._study_id < 0:
                self._study_id = self._storage.create_new_study(directions, self.name)
        except DuplicatedStudyError:  # another driver was faster
            self._study_id = self._storage.get_study_id_from_name(self.name)
        if self._storage.get_study_directions(self._study_id) != directions:
            raise SweepRequestError(
                f"The sweep {self._sweep} exists with another hydra.sweeper.direction.\nGive this sweep another name."
            )
        attributes = self._storage.get_study_user_attrs(self._study_id)
        mine = {"cell": self.cell.name, "choices": dict(self.cell.choices), "config": self.cell.identity}
        for key, value in (mine | {"sweep": self._sweep}).items():
            if key not in attributes:
                self._storage.set_study_user_attr(self._study_id, key, value)
        self._intervals.restore(attributes.get("widened", []))
        return self._study_id

    def load(self, driver: list[Any] | None) -> None:
        """Read the history; trials whose driver is dead are closed as lost.

        Args:
            driver: the address of this driver's lease.
        """
        self._driver = driver
        self._live_drivers = {}
        self.history = History()
        ours = []
        for trial in self._storage.get_all_trials(self._study_id, deepcopy=False):
            if "phase" not in trial.user_attrs or trial.user_attrs.get("void"):
                continue
            if trial.state is TrialState.RUNNING and not self._is_mine(trial) and not self._is_elsewhere(trial):
                trial = self._lose(trial, "lost")
            self.history.take(trial)
            ours.append(trial)
        # Another driver that lives looks after its own waves.
        planned = [t.user_attrs["wave"] for t in ours if "wave" in t.user_attrs and not self._is_elsewhere(t)]
        self._wave = _Wave(*max(planned)) if planned else _Wave()
        if self.cell.dimensions:
            self._restore_proposals({t.user_attrs["slot"]: t for t in ours if "slot" in t.user_attrs})

    def _is_mine(self, trial: FrozenTrial) -> bool:
        return bool(trial.user_attrs.get("driver") == self._driver)

    def _is_elsewhere(self, trial: FrozenTrial) -> bool:
        """Whether another driver that lives asked for a trial."""
        if self._is_mine(trial):
            return False
        driver = trial.user_attrs.get("driver")
        key = json.dumps(driver)
        if key not in self._live_drivers:
            self._live_drivers[key] = lease.is_live(self._storage, driver, seen=not self._shared)
        return self._live_drivers[key]

    def _restore_proposals(self, latest: Mapping[int, FrozenTrial]) -> None:
        """Show the sampler the latest attempt at each slot."""
        for trial in latest.values():
            self._intervals.include(trial.params)  # the request's interval may have become smaller
        self._proposals = self._new_proposals()
        for index in sorted(latest):
            # The running wave's results are told at its end: a resumed wave knows no more than the first time.
            in_wave = self._wave.first <= index < self._wave.end and self._unfinished_wave()
            ended = index in self.history.ended
            self._proposals.restore(latest[index], told=ended and not in_wave)
            if ended and in_wave:
                self._wave.results[index] = latest[index]

    def _new_proposals(self) -> Proposals:
        def sampler(slot: int) -> Any:
            return make_sampler(self._options.sampler, self._options.seed, self.name, slot, len(self._replicates))

        return Proposals(sampler, directions_of(self._options), self._intervals.searched())

    def _rebuild_proposals(self) -> None:
        """Show the sampler the same history in the intervals as they are now."""
        assert self._proposals is not None
        history = self._proposals.trials()
        self._proposals = self._new_proposals()
        for trial in history:
            self._proposals.restore(trial, told=trial.state.is_finished())

    # What it still needs.

    @property
    def n_trials(self) -> int:
        """Slots that the search must have: without an interval one for each replicate."""
        return int(self._options.n_trials) if self.cell.dimensions else len(self._replicates)

    @property
    def total(self) -> int:
        """Trials that there will be, as far as is known."""
        return max(self.n_trials, self.history.next) + self.history.further()

    @property
    def wave(self) -> tuple[int, int]:
        """Number and share of the latest wave it took part in; -1 before the first."""
        return self._wave.number, self._wave.share

    def is_open(self) -> bool:
        """Whether slots are missing, waiting, or running (here or elsewhere)."""
        return bool(self.history.slots) or bool(self._missing())

    def is_behind(self, wave: int) -> bool:
        """Whether it still has to do its part of `wave`, the latest that was begun."""
        return self.is_open() and (self._wave.number < wave or self._unfinished_wave())

    def _unfinished_wave(self) -> bool:
        planned = [self.history.slots.get(index) for index in range(self._wave.first, self._wave.end)]
        mine = any(slot and (slot.waiting or self._is_mine(slot.attempt)) for slot in planned)
        return mine or self.history.next < self._wave.end

    def _missing(self) -> list[tuple[int, str | None]]:
        """(slot, replicate) of the slots that were never asked for."""
        first = self.history.next
        if self.cell.dimensions:
            count = len(self._replicates)
            return [(index, self._replicates[index % count]) for index in range(first, self.n_trials)]
        return list(enumerate((r for r in self._replicates if r not in self.history.replicates), start=first))

    # Asking for trials.

    def ask(self, wave: int, share: int) -> list[Job]:
        """This study's part of a wave: what was lost again, and what its latest wave lacks; else new slots."""
        jobs = [job for slot in self.history.waiting() if (job := self._again(slot.attempt))]
        if jobs or self._unfinished_wave():
            until = self._wave.end
        else:
            until = self.history.next + share
            self._wave = _Wave(wave, share, self.history.next, min(until, self.history.next + len(self._missing())))
        for index, replicate in self._missing():
            # Where another driver was faster, what this one believed is out of date: it asks again later.
            if index >= until or (job := self._new(index, replicate)) is None:
                break
            jobs.append(job)
        return jobs

    def ask_fixed(self, wanted: FixedTrial) -> Job | None:
        """A further trial at a given point, unless it has been run, or is running elsewhere."""
        params = {key: wanted.params[key] for key in self._intervals}
        attributes: dict[str, Any] = {"phase": wanted.phase}
        if wanted.replicate is not None:
            attributes["replicate"] = wanted.replicate
        if self._intervals.include(params) and self._proposals is not None:
            self._rebuild_proposals()
        template = self._template(params, attributes)
        key = slot_key(template)
        if key in self.history.slots:
            slot = self.history.slots[key]
            return self._again(slot.attempt) if slot.waiting else None
        return None if key in self.history.ended else self._start(template)

    def _again(self, lost: FrozenTrial) -> Job | None:
        kept = {key: lost.user_attrs[key] for key in ("phase", "slot", "replicate", "wave") if key in lost.user_attrs}
        return self._start(self._template(lost.params, kept | {"retry_of": lost.number}))

    def _new(self, index: int, replicate: str | None) -> Job | None:
        attributes: dict[str, Any] = {"phase": SEARCH, "slot": index, "wave": self._wave.planned()}
        if replicate is not None:
            attributes["replicate"] = replicate
        if self._proposals is None:
            return self._start(self._template({}, attributes))
        proposal = self._proposals.propose(self.cell.start if index == 0 else None, attributes)
        return self._start(self._template(proposal.params, attributes, proposal.system_attrs))

    def _template(
        self, params: Mapping[str, Any], attributes: Mapping[str, Any], system_attrs: Mapping[str, Any] | None = None
    ) -> FrozenTrial:
        stored = self._intervals.stored()
        return create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions={key: stored[key] for key in params},
            user_attrs={**attributes, "driver": self._driver},
            system_attrs=dict(system_attrs or {}),
        )

    def _start(self, template: FrozenTrial) -> Job | None:
        """Write the trial down, whole in one step, so that a death leaves no half of it."""
        trial = self._storage.get_trial(self._storage.create_new_trial(self._study_id, template))
        if self._shared and self._is_surplus(trial):
            return None
        self.history.take(trial)
        return self._job(trial)

    def _is_surplus(self, mine: FrozenTrial) -> bool:
        """Whether another driver made a trial for the same slot a moment earlier; ours is void then."""
        key = slot_key(mine)
        earlier = self._storage.get_all_trials(self._study_id, deepcopy=False)[: mine.number]
        if all(slot_key(t) != key or t.user_attrs.get("void") or is_lost(t) for t in earlier):
            return False
        self._storage.set_trial_user_attr(mine._trial_id, "void", True)
        self._storage.set_trial_state_values(mine._trial_id, TrialState.FAIL)
        self.load(self._driver)
        return True

    def _job(self, trial: FrozenTrial) -> Job:
        attributes = trial.user_attrs
        values = [f"{key}={value!r}" for key, value in trial.params.items()]
        if "replicate" in attributes:
            values.append(f"{self._options.replicate_key}={attributes['replicate']}")
        address = TrialAddress(
            study=self.name,
            study_id=self._study_id,
            trial_id=trial._trial_id,
            number=trial.number,
            cell=self.cell.name,
            phase=attributes["phase"],
            retry_of=attributes.get("retry_of"),
        )
        return Job(self, address, tuple(values))

    # How trials ended.

    def is_running(self, job: Job) -> bool:
        """Whether a trial has no result yet."""
        return not self._storage.get_trial(job.address.trial_id).state.is_finished()

    def runs_elsewhere(self, job: Job) -> bool:
        """Whether the process of a trial that has no result is another than this one, and lives."""
        process = self._storage.get_trial(job.address.trial_id).user_attrs.get("process")
        return process is not None and not is_me(process) and is_alive(process)

    def fail(self, job: Job, error: str) -> None:
        """Close a trial whose process died without a word."""
        self._close(job.address.trial_id, job.address.number, "failed", {"error": error})

    def interrupt(self) -> None:
        """Close what this driver has running, as interrupted; it is repeated when the sweep goes on."""
        for slot in self.history.slots.values():
            if self._is_mine(slot.attempt) and not slot.waiting:
                self._lose(slot.attempt, "interrupted")

    def _lose(self, trial: FrozenTrial, why: str) -> FrozenTrial:
        """Close a running trial that nobody looks after any more; returns it as it now is."""
        attributes: dict[str, Any] = {"lost": True} | ({"interrupted": True} if why == "interrupted" else {})
        slot = self.history.slots.get(slot_key(trial))
        if why == "lost" and slot is not None and slot.losses + 1 >= MOST_LOSSES and self._ran_inside(trial):
            why, attributes = "failed", {"error": f"its driver died with it running, {MOST_LOSSES} times"}
        self._close(trial._trial_id, trial.number, why, attributes)
        return self._storage.get_trial(trial._trial_id)

    def _close(self, trial_id: int, number: int, status: str, attributes: Mapping[str, Any]) -> None:
        """Close a trial for its process, unless it ended just now, or another driver was faster."""
        try:
            for key, value in attributes.items():
                self._storage.set_trial_user_attr(trial_id, key, value)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return
        self.abandoned.append(Abandoned(self.name, number, status))

    def _ran_inside(self, trial: FrozenTrial) -> bool:
        """Whether a trial ran in its driver's own process, as with Hydra's basic launcher."""
        process = trial.user_attrs.get("process", {})
        driver = lease.driver_of(self._storage, trial.user_attrs.get("driver"))
        return bool(process) and all(process[key] == driver.get(key) for key in ("machine", "pid"))

    def collect(self, jobs: Sequence[Job]) -> None:
        """Take in how a wave's trials ended, and show them to the sampler when the wave is complete here."""
        for job in jobs:
            trial = self._storage.get_trial(job.address.trial_id)
            self.history.take(trial)
            if trial.user_attrs.get("slot") in self.history.ended:
                self._wave.results[trial.user_attrs["slot"]] = trial
        if self._proposals is None or self._unfinished_wave():
            return
        for index in sorted(self._wave.results):
            self._proposals.tell(index, self._wave.results[index])
        self._wave.results = {}
        self._widen()

    def refresh(self) -> None:
        """Take in what other drivers did, and close what dead ones left."""
        self.load(self._driver)

    def _widen(self) -> None:
        """Widen an interval whose outermost octave holds the best of what is known, and say so."""
        assert self._proposals is not None
        directions = directions_of(self._options)
        if len(directions) > 1:
            return
        grown = self._intervals.widen(self._proposals.trials(), directions[0], self._wave.number)
        if grown is not None:
            self._storage.set_study_user_attr(self._study_id, "widened", self._intervals.widened)
            told = "%s: the best %s lies at its interval's end; it is now %.3g to %.3g."
            log.info(told, self.name, grown.key, grown.low, grown.high)
            self._rebuild_proposals()
