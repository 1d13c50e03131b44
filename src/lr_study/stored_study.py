"""A cell's study in Optuna's storage, as a driver reads and writes it.

User attributes of a study: `cell`, `choices`, `config` and `intervals` (what it searches), `sweep` (its name),
`widened` (how its intervals have grown), and `driver:ID` for each lease (see `lr_study.lease`). `lr_study.history` has
those of a trial.

A trial starts as RUNNING. Its own process closes it as COMPLETE, PRUNED or FAIL (with `error`). Where that process
can't, a driver closes it as FAIL with one of these attributes:

- `lost`: its driver died. `lost` and `interrupted`: its driver was interrupted, and closed it on leaving. Another
  attempt follows.
- `error`: its process died alone, or died with its driver `MOST_LOSSES` times. The slot has ended.
- `void`: another driver had made a trial for the same slot first. The trial counts nowhere.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from lr_study import lease
from lr_study.errors import SweepRequestError
from lr_study.history import is_lost, slot_key
from lr_study.hooks import Abandoned
from lr_study.process import is_alive, is_this_process
from lr_study.space import Cell, difference
from lr_study.trial import TrialAddress

# A trial that ran in its driver's own process, and died with it so often, is taken to be the cause, and fails.
MOST_LOSSES = 3


class StoredStudy:
    """One study of a sweep in Optuna's storage.

    Args:
        sweep: the sweep's name.
        shared: whether other drivers may work on the same study.

    Attributes:
        study_id: the study's id in the storage, once it is open.
        driver: address of this driver's lease, once it has one.
        abandoned: trials that were closed here for their processes; the caller empties the list.
    """

    def __init__(self, storage: BaseStorage, sweep: str, cell: Cell, shared: bool) -> None:
        self.name = f"{sweep}/{cell.name}" if cell.name else sweep
        self.cell = cell
        self.shared = shared
        self.study_id = -1
        self.driver: list[Any] | None = None
        self.abandoned: list[Abandoned] = []
        self._storage = storage
        self._sweep = sweep
        self._intervals = {dimension.key.lstrip("+"): str(dimension) for dimension in cell.dimensions}
        self._live_drivers: dict[str, bool] = {}

    def check_same(self, attributes: Mapping[str, Any], may_change: Sequence[str]) -> None:
        """Raise SweepRequestError if the existing study, with these attributes, has another configuration.

        What older versions did not record is taken to be the same.
        """
        mine, intervals = self.cell.identity, self._intervals
        theirs = {**attributes.get("intervals", intervals), **attributes.get("config", mine)}
        different = difference(theirs, {**intervals, **mine}, may_change)
        if different:
            shown = "; ".join(different[:3]) + (f"; and {len(different) - 3} more" if len(different) > 3 else "")
            raise SweepRequestError(
                f"The sweep {self._sweep} exists with another configuration: {shown}."
                "\nGo back to that configuration, or give this sweep another name."
            )

    def open(self, directions: Sequence[StudyDirection]) -> Mapping[str, Any]:
        """Create the study where it doesn't exist; returns the attributes that it had.

        Raises:
            SweepRequestError: it exists with other directions.
        """
        try:
            self.study_id = self._storage.get_study_id_from_name(self.name)
        except KeyError:
            with contextlib.suppress(DuplicatedStudyError):  # another driver has just created it
                self._storage.create_new_study(directions, self.name)
            self.study_id = self._storage.get_study_id_from_name(self.name)
        if self._storage.get_study_directions(self.study_id) != directions:
            raise SweepRequestError(
                f"The sweep {self._sweep} exists with another hydra.sweeper.direction.\nGive this sweep another name."
            )
        found = self._storage.get_study_user_attrs(self.study_id)
        cell = self.cell
        mine = {
            "cell": cell.name,
            "choices": dict(cell.choices),
            "config": cell.identity,
            "intervals": self._intervals,
            "sweep": self._sweep,
        }
        for key, value in mine.items():
            if key not in found:
                self.set_attribute(key, value)
        return found

    def set_attribute(self, key: str, value: Any) -> None:
        """Set a user attribute of the study."""
        self._storage.set_study_user_attr(self.study_id, key, value)

    # Its trials.

    def trials(self) -> list[FrozenTrial]:
        """Every trial that counts, by number."""
        self._live_drivers = {}
        trials = self._storage.get_all_trials(self.study_id, deepcopy=False)
        # Trials without a phase were not made by this sweeper.
        return [trial for trial in trials if "phase" in trial.user_attrs and not trial.user_attrs.get("void")]

    def trial(self, trial_id: int) -> FrozenTrial:
        """A trial as it is now."""
        return self._storage.get_trial(trial_id)

    def trial_id(self, trial: FrozenTrial) -> int:
        """The number that the storage knows a trial by, among those of all studies."""
        return self._storage.get_trial_id_from_study_id_trial_number(self.study_id, trial.number)

    def add(
        self,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        user_attrs: Mapping[str, Any],
        system_attrs: Mapping[str, Any],
    ) -> FrozenTrial | None:
        """Store a new trial in one record, so that a crash can't leave half of it.

        Returns:
            The trial, or None where another driver had made one for the same slot first.
        """
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions={key: distributions[key] for key in params},
            user_attrs={**user_attrs, "driver": self.driver},
            system_attrs=dict(system_attrs),
        )
        trial_id = self._storage.create_new_trial(self.study_id, template)
        trial = self.trial(trial_id)
        if not self.shared:
            return trial
        key = slot_key(user_attrs, params)
        earlier = self._storage.get_all_trials(self.study_id, deepcopy=False)[: trial.number]
        same = [t for t in earlier if slot_key(t.user_attrs, t.params) == key]
        if all(is_lost(t) or t.user_attrs.get("void") for t in same):
            return trial
        self._storage.set_trial_user_attr(trial_id, "void", True)
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        return None

    def close_lost(self, trial: FrozenTrial, losses: int) -> FrozenTrial:
        """Close a running trial whose driver is dead, after so many earlier `losses` at its slot."""
        trial_id = self.trial_id(trial)
        process = trial.user_attrs.get("process", {})
        driver = lease.driver_of(self._storage, trial.user_attrs.get("driver"))
        ran_in_driver = bool(process) and all(process[key] == driver.get(key) for key in ("machine", "pid"))
        if losses + 1 >= MOST_LOSSES and ran_in_driver:
            return self.close(trial_id, "failed", {"error": f"its driver died while it ran, {MOST_LOSSES} times"})
        return self.close(trial_id, "lost", {"lost": True})

    def close(self, trial_id: int, status: str, attributes: Mapping[str, Any]) -> FrozenTrial:
        """Close a trial for its process, unless it has ended meanwhile; `status` is for the app's hooks."""
        try:
            for key, value in attributes.items():
                self._storage.set_trial_user_attr(trial_id, key, value)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:  # by itself, or by another driver
            return self.trial(trial_id)
        trial = self.trial(trial_id)
        self.abandoned.append(Abandoned(self.name, trial.number, status))
        return trial

    # Who looks after a trial.

    def is_mine(self, trial: FrozenTrial) -> bool:
        """Whether this driver made the trial."""
        return bool(trial.user_attrs.get("driver") == self.driver)

    def is_elsewhere(self, trial: FrozenTrial) -> bool:
        """Whether another driver made the trial and is alive."""
        if self.is_mine(trial):
            return False
        driver = trial.user_attrs.get("driver")
        key = json.dumps(driver)
        if key not in self._live_drivers:
            found = lease.driver_of(self._storage, driver)
            self._live_drivers[key] = lease.is_live(found, visible_only=not self.shared)
        return self._live_drivers[key]

    def is_running(self, address: TrialAddress) -> bool:
        """Whether the trial has no result yet."""
        return not self.trial(address.trial_id).state.is_finished()

    def runs_elsewhere(self, address: TrialAddress) -> bool:
        """Whether a process other than this one runs the trial and is alive."""
        trial = self.trial(address.trial_id)
        process = trial.user_attrs.get("process")
        if trial.state.is_finished() or process is None:
            return False
        return not is_this_process(process) and is_alive(process)
