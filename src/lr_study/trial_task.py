"""The app's task function as a launcher runs it: it claims its trial, shows that it is alive, and stores the result.

Hydra's launchers lose a whole wave to one exception that can't be pickled, or to one SystemExit. So each trial writes
its own result to Optuna's storage, from the process that it runs in, and raises nothing.
"""

import contextlib
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig
from optuna import TrialPruned as OptunaTrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from lr_study.interruption import raise_if_signalled
from lr_study.masking import mask_passwords
from lr_study.process import is_alive, is_this_process, repeating, this_process
from lr_study.saved_config import mask_saved_config
from lr_study.storage import open_storage, write_with_retries
from lr_study.trial import Trial, TrialAbandoned, TrialAddress, TrialPruned, set_current_trial

# Seconds between two signs of life of a trial's process. The first is given at the start.
HEARTBEAT_SECONDS = 10.0
# Seconds between two looks at a trial that another process has; and after how many without a sign of life from that
# process this one stops waiting for it.
POLL_SECONDS, SILENT_SECONDS = 0.5, 6 * HEARTBEAT_SECONDS


@dataclass
class TrialTask:
    """The app's task function, wrapped.

    Attributes:
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
        mask_saved_config(config)
        address = self.jobs[HydraConfig.get().job.num]
        storage = open_storage(self.storage)
        if not _claim(storage, address.trial_id):
            return None
        trial = Trial(address, storage, self.pruner, self.command)
        started = time.perf_counter()
        returned, values, error, pruned = None, None, None, False
        set_current_trial(trial)
        try:
            with repeating(lambda: _sign(storage, address.trial_id), HEARTBEAT_SECONDS, "heartbeat"):
                returned = self.task_function(config)
            values, error = self._as_values(returned)
        except (TrialPruned, OptunaTrialPruned):
            pruned = True
        except (Exception, SystemExit) as caught:
            raise_if_signalled()  # it is no fault of the trial, whatever a library made of it
            error = mask_passwords("".join(traceback.format_exception_only(caught)).strip())
            trial.set_attributes(traceback=mask_passwords(traceback.format_exc(limit=-8)))
        except TrialAbandoned:
            return None
        finally:
            set_current_trial(None)
        trial.set_attributes(seconds=round(time.perf_counter() - started, 4))
        _store_result(storage, address.trial_id, values, error, pruned, trial.attributes)
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


def _claim(storage: BaseStorage, trial_id: int) -> bool:
    """Make this process the one that runs the trial; whether it still has to be run.

    A job may be started twice: by a queue that requeues it, or by a driver that took it for dead while it waited in the
    queue. The second waits until the trial has ended: if it returned before, its driver would take the trial for lost.
    """
    while True:
        trial = storage.get_trial(trial_id)
        process = trial.user_attrs.get("process")
        if trial.state.is_finished():
            return False
        if process is None or is_this_process(process) or not is_alive(process):
            break
        if time.time() - process["time"] > SILENT_SECONDS:  # alive, but it no longer runs this trial
            return False
        time.sleep(POLL_SECONDS)
    try:
        write_with_retries(lambda: _sign(storage, trial_id))
    except UpdateFinishedTrialError:
        return False
    return True


def _sign(storage: BaseStorage, trial_id: int) -> None:
    storage.set_trial_user_attr(trial_id, "process", this_process())


def _store_result(
    storage: BaseStorage,
    trial_id: int,
    values: Sequence[float] | None,
    error: str | None,
    pruned: bool,
    attributes: Mapping[str, Any],
) -> None:
    """Close a trial: failed with `error`, pruned, or complete with `values`.

    A trial that the driver has closed meanwhile stays as it is.
    """

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
        write_with_retries(write)
