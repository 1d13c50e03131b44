"""A trial, seen from the process that runs it: it tells Optuna its own result."""

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig

from lr_study.masking import mask_passwords
from lr_study.process import identity, is_alive, is_me

# Seconds between two signs of life of a trial's process; a shorter trial gives the first only.
HEARTBEAT_SECONDS = 10.0
# Seconds between two looks at a trial that another process has, and without a sign after which it isn't waited for.
POLL_SECONDS, SILENT_SECONDS = 0.5, 6 * HEARTBEAT_SECONDS


class TrialPruned(Exception):  # noqa: N818  (Optuna's name for it)
    """Raise it in the task function to end a trial as pruned (`optuna.TrialPruned` does as well)."""


class TrialAbandoned(BaseException):
    """The driver has given this trial up (it was interrupted, or taken for dead): nobody waits for a result.

    Like KeyboardInterrupt it is no Exception, so that nothing takes it for a failure.
    """


@dataclass(frozen=True)
class TrialAddress:
    """Where a job's trial is in Optuna, and what the driver knows of it."""

    study: str
    study_id: int
    trial_id: int
    number: int
    cell: str
    phase: str
    retry_of: int | None


class Trial:
    """The trial that the running job is.

    Attributes:
        study, number: its address in Optuna.
        cell: the choices that make its cell, as `batch=256`.
        phase: `search`, or that of a further trial, as `confirm`.
        retry_of: number of the lost trial that it repeats, or None.
        command: the sweep's command, for a worker's own says nothing.
    """

    def __init__(self, address: TrialAddress, storage: Any, pruner: Any, command: str) -> None:
        self.study = address.study
        self.number = address.number
        self.cell = address.cell
        self.phase = address.phase
        self.retry_of = address.retry_of
        self.command = command
        self._address = address
        self._storage = storage
        self._pruner_node = pruner
        self._pruner: Any = None
        self._study: Any = None
        self._attributes: dict[str, Any] = {}
        self._reported = False

    def set_attributes(self, **attributes: Any) -> None:
        """Attach plain values to the trial in Optuna; they are written with its result."""
        self._attributes |= attributes

    def report(self, value: float, step: int, last_step: int | None = None) -> None:
        """Store an intermediate value of the objective.

        Args:
            value: the objective after `step`.
            step: 1, 2, …: evaluations so far.
            last_step: how many there will be, where that is known; pruners that count in shares need it.

        Raises:
            TrialAbandoned: the driver has given the trial up.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        from lr_study.storage import patiently

        trial_id = self._address.trial_id
        try:
            if last_step is not None and not self._reported:
                self._storage.set_trial_user_attr(trial_id, "last_step", last_step)
            self._reported = True
            patiently(lambda: self._storage.set_trial_intermediate_value(trial_id, step, float(value)))
        except UpdateFinishedTrialError:
            raise TrialAbandoned(f"trial {self.number} of {self.study} was given up") from None

    def should_prune(self) -> bool:
        """Whether the configured pruner would end the trial now, by what was reported so far."""
        if self._pruner_node is None:
            return False
        if self._pruner is None:
            import optuna

            from lr_study.build import make_pruner

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            self._pruner = make_pruner(self._pruner_node)
            self._study = optuna.load_study(
                study_name=self.study,
                storage=self._storage,
                sampler=optuna.samplers.RandomSampler(),
                pruner=self._pruner,
            )
        return bool(self._pruner.prune(self._study, self._storage.get_trial(self._address.trial_id)))


_current: Trial | None = None


def current_trial() -> Trial | None:
    """The trial that this process is running, or None outside a sweep."""
    return _current


@dataclass
class TrialTask:
    """The app's task function, wrapped: whatever happens in it, the result is stored and nothing raised.

    Hydra's launchers lose a whole wave to one exception that can't be pickled or one SystemExit, so none
    gets out.

    Attributes:
        task_function: the app's.
        storage: a journal's absolute path, or a database's URL.
        objectives: how many numbers the task returns.
        searched: whether it must return them; without a search it may return anything.
        pruner: the pruner's configuration, or None.
        command: the sweep's command, without passwords.
        jobs: the running wave's trials, by `hydra.job.num`.
    """

    task_function: TaskFunction
    storage: str
    objectives: int
    searched: bool
    pruner: Mapping[str, Any] | None
    command: str
    jobs: dict[int, TrialAddress] = field(default_factory=dict)

    def __call__(self, config: DictConfig) -> Any:
        global _current
        from lr_study.storage import open_storage

        address = self.jobs[HydraConfig.get().job.num]
        storage = open_storage(self.storage)
        if not _claim(storage, address.trial_id):
            return None
        trial = Trial(address, storage, self.pruner, self.command)
        started = time.perf_counter()
        returned, values, error, pruned = None, None, None, False
        _current = trial
        try:
            with _heartbeat(storage, address.trial_id):
                returned = self.task_function(config)
            values, error = self._as_values(returned)
        except (Exception, SystemExit) as caught:
            if pruned := _is_pruned(caught):
                values = None
            else:
                error = mask_passwords("".join(traceback.format_exception_only(caught)).strip())
                trial.set_attributes(traceback=mask_passwords(traceback.format_exc(limit=-8)))
        except TrialAbandoned:
            return None
        finally:
            _current = None
        trial.set_attributes(seconds=round(time.perf_counter() - started, 4))
        tell(storage, address.trial_id, values, error, pruned, trial._attributes)
        return returned

    def _as_values(self, returned: Any) -> tuple[list[float] | None, str | None]:
        """The objectives that a task returned, or what is wrong with them."""
        given = list(returned) if isinstance(returned, Sequence) and not isinstance(returned, str) else [returned]
        numbers = [float(value) for value in given if isinstance(value, Real) or hasattr(value, "__float__")]
        if len(numbers) != len(given) or len(numbers) != self.objectives:
            if not self.searched:
                return None, None
            return None, f"the task returned {returned!r}, not {self.objectives} number(s)"
        if any(number != number for number in numbers):
            return None, "the objective is NaN"
        return numbers, None


def _claim(storage: Any, trial_id: int) -> bool:
    """Take the trial on, unless it is over already, or ends in another process that has it."""
    from optuna.exceptions import UpdateFinishedTrialError

    from lr_study.storage import patiently

    if not _is_free(storage, trial_id):
        return False
    try:
        patiently(lambda: storage.set_trial_user_attr(trial_id, "process", identity()))
    except UpdateFinishedTrialError:
        return False
    return True


def _is_free(storage: Any, trial_id: int) -> bool:
    """Whether the trial needs a process, once no other that lives is at it.

    A job may be started twice: by a queue that brings it back, or by a driver that took it for dead while it waited in
    the queue. The second must not end before the trial does: its driver would take the trial for lost.
    """
    while True:
        trial = storage.get_trial(trial_id)
        process = trial.user_attrs.get("process")
        if trial.state.is_finished():
            return False
        if process is None or is_me(process) or not is_alive(process):
            return True
        if time.time() - process["time"] > SILENT_SECONDS:  # it lives, but its heart doesn't beat for this trial
            return False
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _heartbeat(storage: Any, trial_id: int) -> Iterator[None]:
    """Renew the sign of life of a trial that takes long, for those who can't see its process."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(Exception):  # over, or the storage is away for a moment
                storage.set_trial_user_attr(trial_id, "process", identity())

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_pruned(error: BaseException) -> bool:
    if isinstance(error, TrialPruned):
        return True
    optuna = sys.modules.get("optuna")
    return optuna is not None and isinstance(error, optuna.TrialPruned)


def tell(
    storage: Any,
    trial_id: int,
    values: Sequence[float] | None,
    error: str | None,
    pruned: bool,
    attributes: Mapping[str, Any],
) -> None:
    """Store a trial's result: failed with `error`, pruned, or complete with `values`.

    A trial that the driver has given up meanwhile stays as it is.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    from lr_study.storage import patiently

    def write() -> None:
        for key, attribute in attributes.items():
            storage.set_trial_user_attr(trial_id, key, attribute)
        if error is not None:
            storage.set_trial_user_attr(trial_id, "error", error)
            storage.set_trial_state_values(trial_id, TrialState.FAIL)
        elif pruned:
            reported = storage.get_trial(trial_id).intermediate_values
            last = [reported[max(reported)]] if reported else None
            storage.set_trial_state_values(trial_id, TrialState.PRUNED, last)
        else:
            storage.set_trial_state_values(trial_id, TrialState.COMPLETE, values)

    with contextlib.suppress(UpdateFinishedTrialError):
        patiently(write)
