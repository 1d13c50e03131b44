"""A sweep's waves: which trials run next, in all studies, until every study is complete."""

import math
import time
from collections.abc import Mapping, Sequence

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from lr_study.errors import SweepFailedError
from lr_study.hooks import FixedTrial, Hooks, Progress, Sweep
from lr_study.launching import Job, Launching
from lr_study.process import available_cores
from lr_study.study import CellStudy

# Fewest trials of a wave for each worker: they differ in length, and a worker that is done takes the next.
TRIALS_PER_WORKER = 2
# From so many finished trials on, the share of failures decides whether the sweep stops. Before, it stops only where
# all fail with the same error.
ENOUGH_TRIALS = 10
# Seconds between two looks at what other processes do.
POLL_SECONDS = 0.5


class Waves:
    """Runs the trials that the studies still need.

    Args:
        studies: in the order of the request.
        config: of the sweep, with the `hydra` node.
    """

    def __init__(self, launching: Launching, studies: Sequence[CellStudy], hooks: Hooks, config: DictConfig) -> None:
        self._launching = launching
        self._studies = studies
        self._hooks = hooks
        self._options = config.hydra.sweeper
        self._workers = _workers_of(config)
        self._shared = studies[0].stored.shared
        self._everywhere: list[str] = []
        # Failures of earlier commands don't count: their cause may have been fixed.
        self._before, self._errors_before = self.progress, self._errors()
        self._searched = any(study.cell.dimensions for study in studies)
        # What Hydra's own sweepers return. A search doesn't: its results are in the storage, and may be many.
        self.returns: list[list[JobReturn]] = []

    def run(self, sweep: Sweep, everywhere: Mapping[str, str]) -> None:
        """Search until every study is complete, then run the further trials that the hooks ask for.

        Raises:
            SweepFailedError: too many trials have failed.
        """
        self._everywhere = [f"{key}={value}" for key, value in everywhere.items()]
        self._search()
        while further := self._hooks.further_trials(sweep):
            if not self._run_fixed(further):
                break

    @property
    def progress(self) -> Progress:
        """Of all studies together."""
        return Progress(
            finished=sum(len(study.history.ended) for study in self._studies),
            failed=sum(len(study.history.failed) for study in self._studies),
            total=sum(study.total for study in self._studies),
        )

    def _search(self) -> None:
        self._tell_abandoned()
        while open_studies := [study for study in self._studies if study.is_open()]:
            jobs = self._next_wave(open_studies)
            if jobs:
                self._run_wave(jobs)
            else:
                time.sleep(POLL_SECONDS)  # other drivers run what is left
            self._refresh()

    def _run_fixed(self, further: Sequence[FixedTrial]) -> bool:
        """Run further trials, and return whether any was new."""
        by_cell = {study.cell.name: study for study in self._studies}
        jobs = [job for trial in further if (job := by_cell[trial.cell].ask_fixed(trial))]
        if jobs:
            self._run_wave(jobs)
        while self._shared and any(study.is_open() for study in self._studies):
            self._search()
        return bool(jobs)

    def _next_wave(self, open_studies: Sequence[CellStudy]) -> list[Job]:
        """Make the next jobs: spread evenly over the studies, the longest first.

        An interrupted wave is finished before another begins, so that a resumed sweep takes the same steps as an
        uninterrupted one.
        """
        latest, share = max((study.wave.number, study.wave.share) for study in self._studies)
        behind = [study for study in open_studies if latest >= 0 and study.is_behind(latest)]
        if behind:
            number, taking_part = latest, behind
        else:
            number, taking_part = latest + 1, list(open_studies)
            share = math.ceil(TRIALS_PER_WORKER * self._workers / len(taking_part))
        if not self._searched:
            share = max(study.n_trials for study in self._studies)  # a grid learns nothing from its trials
        asked = {study: study.ask(number, share) for study in taking_part}
        longest_first = sorted(asked, key=lambda study: -study.history.mean_seconds())
        return [job for study in longest_first for job in asked[study]]

    def _run_wave(self, jobs: Sequence[Job]) -> None:
        most = self._options.max_batch_size or len(jobs)
        for start in range(0, len(jobs), most):
            batch = jobs[start : start + most]
            returned = self._launching.run(batch, self._everywhere)
            if not self._searched:
                self.returns.append(returned)
        for study in self._studies:
            if own := [job for job in jobs if job.stored is study.stored]:
                study.collect(own)
        self._tell_abandoned()
        self._hooks.wave_done(self.progress)
        self._check_failures()

    def _refresh(self) -> None:
        if self._shared:
            for study in self._studies:
                if study.is_open():
                    study.load()
            self._tell_abandoned()

    def _tell_abandoned(self) -> None:
        trials = [trial for study in self._studies for trial in study.stored.abandoned]
        for study in self._studies:
            study.stored.abandoned.clear()
        if trials:
            self._hooks.abandoned(trials)

    def interrupt(self) -> None:
        """Close this driver's running trials as interrupted."""
        for study in self._studies:
            study.interrupt()
        self._tell_abandoned()

    def _errors(self) -> set[str]:
        return {str(trial.user_attrs.get("error")) for study in self._studies for trial in study.history.failed}

    def _check_failures(self) -> None:
        """Stop where too many trials failed, or the first ones all failed with the same error."""
        failed = self.progress.failed - self._before.failed
        finished = self.progress.finished - self._before.finished
        if failed <= 0 or failed <= self._options.max_failure_rate * finished:
            return
        all_alike = failed == finished > 1 and len(self._errors() - self._errors_before) <= 1
        if finished < ENOUGH_TRIALS and self.progress.finished < self.progress.total and not all_alike:
            return
        study = next(study for study in self._studies if study.history.failed)
        last = study.history.failed[-1]
        raise SweepFailedError(
            f"{failed} of {finished} trials failed, so the sweep stopped; finished trials are kept. "
            f"Trial {last.number} of {study.name}: {last.user_attrs.get('error')}"
            "\nFix the cause and run the same command again, or raise hydra.sweeper.max_failure_rate."
        )


def _workers_of(config: DictConfig) -> int:
    """How many jobs the launcher runs at once: `hydra.sweeper.workers`, else read from the launcher's options."""
    if config.hydra.sweeper.workers is not None:
        return int(config.hydra.sweeper.workers)
    jobs = OmegaConf.select(config, "hydra.launcher.n_jobs")
    if jobs is not None:
        # joblib's -1 is all cores, -2 all but one, and so on.
        return int(jobs) if jobs > 0 else max(1, available_cores() + 1 + int(jobs))
    parallel = OmegaConf.select(config, "hydra.launcher.array_parallelism")
    if parallel is not None:
        return int(parallel)
    return available_cores() if OmegaConf.select(config, "hydra.launcher.ray") is not None else 1
