"""A trial, seen from the process that runs it: it tells Optuna its own result."""

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig


@dataclass
class Trial:
    """The trial that the running job is.

    Attributes:
        study, number: its address in Optuna.
        cell: the choices that make its cell, as `batch=256`.
        phase: `search`.
        retry_of: number of the lost trial that it repeats, or None.
    """

    study: str
    number: int
    cell: str
    phase: str = "search"
    retry_of: int | None = None
    _attributes: dict[str, Any] = field(default_factory=dict)

    def set_attributes(self, **attributes: Any) -> None:
        """Attach plain values to the trial in Optuna; they are written with its result."""
        self._attributes |= attributes


_current: Trial | None = None


def current_trial() -> Trial | None:
    """The trial that this process is running, or None outside a sweep."""
    return _current


class TrialTask:
    """The app's task function, wrapped: whatever happens in it, the result is stored and plain data returned.

    Hydra's launchers lose a whole wave to one exception that can't be pickled or one SystemExit, so none
    gets out.
    """

    def __init__(self, task_function: TaskFunction, storage: str) -> None:
        self.task_function = task_function
        self.storage = storage

    def __call__(self, config: DictConfig) -> float | None:
        global _current
        from hydra_plugins.lr_study_sweeper._storage import open_storage

        address = HydraConfig.get().sweeper.trial
        storage = open_storage(self.storage)
        study_id = storage.get_study_id_from_name(address.study)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, address.number)
        stored = storage.get_trial(trial_id).user_attrs
        cell = storage.get_study_user_attrs(study_id).get("cell", "")
        trial = Trial(address.study, address.number, cell, stored.get("phase", "search"), stored.get("retry_of"))
        started = time.perf_counter()
        value, error = None, None
        _current = trial
        try:
            value = float(self.task_function(config))
            if value != value:
                error = "the objective is NaN"
        except (Exception, SystemExit) as caught:
            error = "".join(traceback.format_exception_only(caught)).strip()
            trial.set_attributes(traceback=traceback.format_exc(limit=-8))
        finally:
            _current = None
        trial.set_attributes(seconds=round(time.perf_counter() - started, 4))
        tell(storage, trial_id, value, error, trial._attributes)
        return value


def tell(storage: Any, trial_id: int, value: float | None, error: str | None, attributes: Mapping[str, Any]) -> None:
    """Store a trial's result: complete with `value`, or failed with `error`."""
    from optuna.trial import TrialState

    for key, attribute in attributes.items():
        storage.set_trial_user_attr(trial_id, key, attribute)
    if error is not None:
        storage.set_trial_user_attr(trial_id, "error", error)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
    else:
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])
