"""The points that a study's sampler proposes: a function of what the study knew when the wave began."""

import contextlib
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from lr_study.intervals import Intervals
from lr_study.space import Dimension

# The system attribute of a trial that holds what its sampler wrote on the study.
STUDY_NOTES = "lr_study:notes"


class Proposals:
    """A study's history as its sampler sees it: one trial a slot, in order, results told wave by wave.

    It is an Optuna study in memory. Lost attempts don't appear in it. A wave's results are told together at its end. So
    a resumed search continues exactly like an uninterrupted one, and a wave's trials count as pending for each other,
    whichever ends first.

    Args:
        make_sampler: slot to a sampler whose randomness follows from the slot.
        intervals: what is searched. Where they have changed, old trials are shown in the new ones, since many samplers
            ignore trials from another distribution.
    """

    def __init__(
        self,
        make_sampler: Callable[[int], BaseSampler],
        directions: Sequence[StudyDirection],
        intervals: Intervals,
    ) -> None:
        self.intervals = intervals
        self._make_sampler = make_sampler
        self._directions = list(directions)
        self.restore([], told=())

    def restore(self, trials: Sequence[FrozenTrial], told: Container[int | str]) -> None:
        """Start afresh, in the intervals as they are now.

        Args:
            trials: the latest attempt at each slot, in order.
            told: slots whose results the sampler knows.
        """
        for trial in trials:
            self.intervals.include(trial.params)  # the requested interval may have become smaller
        self._distributions = self.intervals.searched()
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage,
            directions=self._directions,
            sampler=RandomSampler(),
            pruner=optuna.pruners.NopPruner(),
        )
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._next = 0
        self._untold: set[int] = set()
        for slot, trial in enumerate(trials):
            self._add(trial, slot in told)

    def _add(self, trial: FrozenTrial, told: bool) -> None:
        """Add the next slot from a trial, with or without its result."""
        state = trial.state if told else TrialState.RUNNING
        values = trial.values if state in (TrialState.COMPLETE, TrialState.PRUNED) else None
        if state is TrialState.COMPLETE and values is None:
            state = TrialState.FAIL
        notes = dict(trial.system_attrs)
        for key, value in notes.pop(STUDY_NOTES, {}).items():
            self._storage.set_study_system_attr(self._study_id, key, value)
        if not told:
            self._untold.add(self._next)
        self._next += 1
        self._study.add_trial(
            create_trial(
                state=state,
                values=values,
                params=trial.params,
                distributions={key: self._distributions[key] for key in trial.params},
                user_attrs=trial.user_attrs,
                system_attrs=notes,
                intermediate_values=trial.intermediate_values if told else {},
            )
        )

    def include(self, params: Mapping[str, Any]) -> None:
        """Stretch the intervals to hold given values."""
        if self.intervals.include(params):
            self._rebuild()

    def _rebuild(self) -> None:
        """Show the sampler the same history in the intervals as they are now."""
        trials = self._trials()
        self.restore(trials, told={trial.number for trial in trials if trial.state.is_finished()})

    def propose(
        self, start: Mapping[str, Any] | None, user_attrs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ask for the next slot's point: `start` where it is given, else the sampler's choice.

        Returns:
            The point, and the system attributes that the sampler wrote while finding it.
        """
        # Enqueued, also where no value is fixed, so that the sampler sees the attributes (the replicate).
        self._study.enqueue_trial(dict(start or {}), user_attrs=dict(user_attrs))
        slot = self._next
        self._study.sampler = self._make_sampler(slot)
        before = self._storage.get_study_system_attrs(self._study_id).copy()
        trial = self._study.ask(self._distributions)
        assert trial.number == slot
        self._untold.add(slot)
        self._next += 1
        attributes = self._trials()[slot].system_attrs
        system_attrs = {k: v for k, v in attributes.items() if k != "fixed_params"}
        after = self._storage.get_study_system_attrs(self._study_id)
        if notes := {key: value for key, value in after.items() if before.get(key) != value}:
            system_attrs[STUDY_NOTES] = notes
        return trial.params, system_attrs

    def tell(self, results: Mapping[Any, FrozenTrial]) -> None:
        """Tell the sampler, in order, the results that it doesn't know.

        Args:
            results: slot to the trial that ended it; further keys are ignored.
        """
        for slot in sorted(self._untold & results.keys()):
            self._untold.remove(slot)
            self._tell(slot, results[slot])

    def _tell(self, slot: int, result: FrozenTrial) -> None:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, slot)
        for key, value in result.user_attrs.items():
            self._storage.set_trial_user_attr(trial_id, key, value)
        for step, value in result.intermediate_values.items():
            self._storage.set_trial_intermediate_value(trial_id, step, value)
        self._study.sampler = self._make_sampler(slot)
        complete = result.state is TrialState.COMPLETE and result.values is not None
        state = result.state if complete or result.state is TrialState.PRUNED else TrialState.FAIL
        # A sampler that has tried every point asks Optuna's own loop, which isn't running here, to stop.
        with contextlib.suppress(RuntimeError):
            self._study.tell(slot, result.values if complete else None, state=state)

    def widen(self, wave: int) -> Dimension | None:
        """Widen an interval whose outermost octave holds the best results, and return it as it is now."""
        if len(self._directions) > 1:
            return None
        grown = self.intervals.widen(self._trials(), self._directions[0], wave)
        if grown is not None:
            self._rebuild()
        return grown

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)
