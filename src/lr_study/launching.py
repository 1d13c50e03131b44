"""Running jobs through Hydra's launcher, whatever happens to the processes they run in."""

import logging
import time
from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from lr_study.cell_loader import CellLoader
from lr_study.errors import reason_of
from lr_study.study import Job
from lr_study.trial import TrialTask

log = logging.getLogger(__name__)

# Seconds between two looks at a job that a launcher has left running.
POLL_SECONDS = 0.5


class Launching:
    """Gives jobs to Hydra's launcher, and those that it lost once more, one at a time.

    Args:
        launcher: Hydra's.
        task: what the launcher runs; it is told the jobs' trials.
        loader: what the launcher composes with; it is told the jobs' cells.
        first_job: the first number for a job; earlier runs of the same sweep had those below.
    """

    def __init__(self, launcher: Launcher, task: TrialTask, loader: CellLoader, first_job: int) -> None:
        self._launcher = launcher
        self._task = task
        self._loader = loader
        self._next_job = first_job

    def run(self, jobs: Sequence[Job], everywhere: Sequence[str]) -> list[JobReturn]:
        """Run jobs at once. What the launcher returns or raises is a hint: the storage knows what was finished.

        Args:
            jobs: each ends with a result, or with its trial closed as failed.
            everywhere: overrides for all of them; a key that the user gave is the user's, and stays.
        """
        numbers = list(range(self._next_job, self._next_job + len(jobs)))
        self._next_job += len(jobs)
        self._task.jobs = {number: job.address for number, job in zip(numbers, jobs, strict=True)}
        self._loader.know([job.study.cell for job in jobs])
        overrides = [_overrides(job, everywhere) for job in jobs]
        returned, error = self._launch(overrides, numbers[0], jobs)
        if error is not None:
            log.warning("A wave was broken off (%s); what it left is run one at a time.", reason_of(error))
        for job, own, number in zip(jobs, overrides, numbers, strict=True):
            if not job.study.is_running(job):
                continue
            _, error = self._launch([own], number, [job])
            if job.study.is_running(job):
                cause = "its process ended without a result"
                job.study.fail(job, cause if error is None else f"its process died: {reason_of(error)}")
        return returned

    def _launch(
        self, overrides: list[list[str]], number: int, jobs: Sequence[Job]
    ) -> tuple[list[JobReturn], Exception | None]:
        """What the launcher returned, or raised; no job runs any more after it."""
        try:
            return list(self._launcher.launch(overrides, initial_job_idx=number)), None
        except Exception as error:
            # A launcher that gives up may leave jobs running; one that returns has seen them all end.
            while any(job.study.is_running(job) and job.study.runs_elsewhere(job) for job in jobs):
                time.sleep(POLL_SECONDS)
            return [], error


def _overrides(job: Job, everywhere: Sequence[str]) -> list[str]:
    given = {key for key, _ in job.study.cell.overrides}
    added = [override for override in everywhere if override.split("=", 1)[0] not in given]
    return [*(text for _, text in job.study.cell.overrides), *added, *job.values]
