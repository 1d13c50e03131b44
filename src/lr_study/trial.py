"""The trial that a job runs, as the app's task function sees it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any


class TrialPruned(Exception):  # noqa: N818  (Optuna's name for it)
    """Raise it in the task function to end a trial as pruned (`optuna.TrialPruned` does as well)."""


class TrialAbandoned(BaseException):
    """The driver has closed this trial, because it was interrupted or took the trial for dead.

    Like KeyboardInterrupt it is no Exception, so that no handler takes it for a failure.
    """


@dataclass(frozen=True)
class TrialAddress:
    """Where a job's trial is in Optuna, and what the driver knows of it."""

    study: str
    trial_id: int
    number: int
    cell: str
    phase: str
    retry_of: int | None


class Trial:
    """The running job's trial.

    Attributes:
        study, number: its address in Optuna.
        cell: the choices that make its cell, such as `batch=256`.
        phase: `search`, or that of a further trial, such as `confirm`.
        retry_of: number of the lost trial that it repeats, or None.
        command: the sweep's command; that of a worker process says nothing.
        attributes: what `set_attributes` was given; written to Optuna with the result.
    """

    def __init__(self, address: TrialAddress, storage: Any, pruner: Any, command: str) -> None:
        self.study = address.study
        self.number = address.number
        self.cell = address.cell
        self.phase = address.phase
        self.retry_of = address.retry_of
        self.command = command
        self.attributes: dict[str, Any] = {}
        self._trial_id = address.trial_id
        self._storage = storage
        self._pruner = pruner
        self._reported = False

    def set_attributes(self, **attributes: Any) -> None:
        """Attach plain values to the trial in Optuna; they are written with its result."""
        self.attributes |= attributes

    def report(self, value: float, step: int, last_step: int | None = None) -> None:
        """Store an intermediate value of the objective.

        Args:
            value: the objective after `step`.
            step: 1, 2, …: evaluations so far.
            last_step: how many there will be, where that is known; pruners that use fractions of a trial need it.

        Raises:
            TrialAbandoned: the driver has closed the trial.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        from lr_study.storage import write_with_retries

        try:
            if last_step is not None and not self._reported:
                self._storage.set_trial_user_attr(self._trial_id, "last_step", last_step)
            self._reported = True
            write_with_retries(lambda: self._storage.set_trial_intermediate_value(self._trial_id, step, float(value)))
        except UpdateFinishedTrialError:
            raise TrialAbandoned(f"the driver closed trial {self.number} of {self.study}") from None

    def should_prune(self) -> bool:
        """Whether the configured pruner would end the trial now, given what was reported so far."""
        if self._pruner is None:
            return False
        return bool(self._study.pruner.prune(self._study, self._storage.get_trial(self._trial_id)))

    @cached_property
    def _study(self) -> Any:
        import optuna

        from lr_study.build import make_pruner

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler, pruner = optuna.samplers.RandomSampler(), make_pruner(self._pruner)
        return optuna.load_study(study_name=self.study, storage=self._storage, sampler=sampler, pruner=pruner)


_current: Trial | None = None


def current_trial() -> Trial | None:
    """The trial that this process is running, or None outside a sweep."""
    return _current


def set_current_trial(trial: Trial | None) -> None:
    """Say which trial this process is running."""
    global _current
    _current = trial
