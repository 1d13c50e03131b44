"""One cell's search: asking for trials, counting what is finished, repeating what was lost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hydra_plugins.lr_study_sweeper._sampler import make_sampler
from hydra_plugins.lr_study_sweeper._space import Cell

LOST = "lost"


@dataclass(frozen=True)
class Job:
    """A trial that was asked for, as a Hydra job: which study and number, and its overrides."""

    study: "CellStudy"
    number: int
    overrides: tuple[str, ...]


class CellStudy:
    """An Optuna study that searches one cell.

    Args:
        sweep: the sweep's name.
        cell: what it searches.
        replicates: values that trials take in turn, written to `replicate_key`.
        options: `hydra.sweeper`.
        storage: Optuna's.
    """

    def __init__(
        self,
        sweep: str,
        cell: Cell,
        replicates: Sequence[str | None],
        options: DictConfig,
        storage: BaseStorage,
    ) -> None:
        self.cell = cell
        self.name = f"{sweep}/{cell.name}" if cell.name else sweep
        self.replicates = replicates
        self.replicate_key = options.replicate_key
        # Without an interval there is nothing to search: the cell runs once for each replicate.
        self.n_trials = options.n_trials if cell.dimensions else len(replicates)
        self._seed = options.seed
        self._sampler = options.sampler
        self._distributions = {d.key: _distribution(d.low, d.high, d.log, d.integer) for d in cell.dimensions}
        self._study = optuna.create_study(
            study_name=self.name, storage=storage, direction=options.direction, load_if_exists=True
        )
        self._storage = storage
        if not self._study.user_attrs:
            self._study.set_user_attr("sweep", sweep)
            self._study.set_user_attr("cell", cell.name)
            self._study.set_user_attr("choices", dict(cell.choices))
            if cell.start:
                self._study.enqueue_trial(dict(cell.start))

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, also those that wait or run."""
        return self._study.get_trials(deepcopy=False)

    def finished(self) -> list[FrozenTrial]:
        """Trials with a result or an error of their own; lost ones don't count."""
        return [t for t in self.trials if t.state.is_finished() and not t.user_attrs.get(LOST)]

    def failed(self) -> list[FrozenTrial]:
        """Finished trials that raised an error."""
        return [t for t in self.finished() if t.state is TrialState.FAIL]

    def remaining(self) -> int:
        """Trials still to be asked for, with none running."""
        return max(0, self.n_trials - len(self.finished()))

    def mean_seconds(self) -> float:
        """Mean length of a finished trial in seconds; infinite before the first, so that it goes first."""
        seconds = [t.user_attrs["seconds"] for t in self.finished() if "seconds" in t.user_attrs]
        return sum(seconds) / len(seconds) if seconds else float("inf")

    def give_up_lost(self) -> None:
        """Close trials that a dead sweep left running, and queue each again, with its replicate."""
        for trial in self.trials:
            if trial.state is not TrialState.RUNNING:
                continue
            self._storage.set_trial_user_attr(trial._trial_id, LOST, True)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            again = {"retry_of": trial.number}
            if "replicate" in trial.user_attrs:
                again["replicate"] = trial.user_attrs["replicate"]
            self._study.enqueue_trial(trial.params, user_attrs=again)

    def ask(self) -> Job:
        """Ask for the next trial."""
        number = len(self.trials)
        self._study.sampler = make_sampler(self._sampler, self._seed, self.name, number)
        trial = self._study.ask(self._distributions)
        stored = trial.user_attrs
        if "replicate" not in stored:
            trial.set_user_attr("replicate", self.replicates[trial.number % len(self.replicates)])
        return Job(self, trial.number, self._job_overrides(trial.number, trial.params, trial.user_attrs["replicate"]))

    def fail(self, number: int, error: str) -> None:
        """Close a trial whose process died without a word."""
        trial = self.trials[number]
        self._storage.set_trial_user_attr(trial._trial_id, "error", error)
        self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def is_running(self, number: int) -> bool:
        """Whether a trial has no result yet."""
        return self.trials[number].state is TrialState.RUNNING

    def _job_overrides(self, number: int, params: Mapping[str, Any], replicate: str | None) -> tuple[str, ...]:
        searched = [f"{key}={value!r}" for key, value in params.items()]
        replicated = [] if replicate is None else [f"{self.replicate_key}={replicate}"]
        address = [
            f"hydra.sweeper.trial.study={json.dumps(self.name)}",
            f"hydra.sweeper.trial.number={number}",
        ]
        return (*self.cell.overrides, *searched, *replicated, *address)


def _distribution(low: float, high: float, log: bool, integer: bool) -> BaseDistribution:
    if integer:
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)
