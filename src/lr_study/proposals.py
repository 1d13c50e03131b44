"""Where a study's next trial should be: a function of what the study knew when the wave began, and of nothing else."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

# A trial's system attribute that keeps what its sampler noted on the study.
STUDY_NOTES = "lr_study:notes"


@dataclass(frozen=True)
class Proposal:
    """A point, and what the sampler noted down while finding it."""

    params: Mapping[str, Any]
    system_attrs: Mapping[str, Any]


class Proposals:
    """A study's history as its sampler sees it: one trial a slot, in order, results told wave by wave.

    It is an Optuna study in memory. Trials that were lost and repeated are one slot here, and a wave's results
    are all told at its end. So a resumed search goes on exactly as an uninterrupted one, and what runs
    counts as pending whichever trial ends first.

    Args:
        make_sampler: slot to a sampler whose randomness follows from the slot.
        directions: for each objective.
        distributions: what is searched now; where it has been widened, old trials are seen in it too, since
            many samplers pass over trials from another distribution.
    """

    def __init__(
        self,
        make_sampler: Callable[[int], BaseSampler],
        directions: Sequence[StudyDirection],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        self._make_sampler = make_sampler
        self._distributions = dict(distributions)
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage,
            directions=list(directions),
            sampler=RandomSampler(),
            pruner=optuna.pruners.NopPruner(),
        )
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._next = 0

    def restore(self, trial: FrozenTrial, told: bool) -> None:
        """Add the next slot from a stored trial: with its result, or still without it (`told` is false)."""
        running = not told
        state = TrialState.RUNNING if running else trial.state
        values = trial.values if state in (TrialState.COMPLETE, TrialState.PRUNED) else None
        if state is TrialState.COMPLETE and values is None:
            state = TrialState.FAIL
        notes = dict(trial.system_attrs)
        for key, value in notes.pop(STUDY_NOTES, {}).items():
            self._storage.set_study_system_attr(self._study_id, key, value)
        self._study.add_trial(
            create_trial(
                state=state,
                values=values,
                params=trial.params,
                distributions={key: self._distributions[key] for key in trial.params},
                user_attrs=trial.user_attrs,
                system_attrs=notes,
                intermediate_values={} if running else trial.intermediate_values,
            )
        )
        self._next += 1

    def propose(self, start: Mapping[str, Any] | None, user_attrs: Mapping[str, Any]) -> Proposal:
        """Ask for the next slot's point: `start` where it is given, else the sampler's choice."""
        # Enqueued, also where no value is fixed, so that the sampler sees the attributes (the replicate).
        self._study.enqueue_trial(dict(start or {}), user_attrs=dict(user_attrs))
        self._study.sampler = self._make_sampler(self._next)
        before = self._storage.get_study_system_attrs(self._study_id).copy()
        trial = self._study.ask(self._distributions)
        assert trial.number == self._next
        self._next += 1
        attributes = self._storage.get_trial_system_attrs(trial._trial_id)
        system_attrs = {k: v for k, v in attributes.items() if k != "fixed_params"}
        noted = self._storage.get_study_system_attrs(self._study_id)
        if new := {key: value for key, value in noted.items() if before.get(key) != value}:
            system_attrs[STUDY_NOTES] = new
        return Proposal(trial.params, system_attrs)

    def tell(self, slot: int, result: FrozenTrial) -> None:
        """Tell the sampler how a slot's trial ended."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, slot)
        for key, value in result.user_attrs.items():
            self._storage.set_trial_user_attr(trial_id, key, value)
        for step, value in result.intermediate_values.items():
            self._storage.set_trial_intermediate_value(trial_id, step, value)
        self._study.sampler = self._make_sampler(slot)
        complete = result.state is TrialState.COMPLETE and result.values is not None
        state = result.state if complete or result.state is TrialState.PRUNED else TrialState.FAIL
        # Samplers that have seen everything ask Optuna's own loop, which isn't running here, to stop.
        with contextlib.suppress(RuntimeError):
            self._study.tell(slot, result.values if complete else None, state=state)

    def trials(self) -> list[FrozenTrial]:
        """The history."""
        return self._study.get_trials(deepcopy=False)
