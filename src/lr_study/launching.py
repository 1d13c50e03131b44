"""Trials as Hydra jobs, and running them through Hydra's launcher, whatever happens to their processes."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig

from lr_study.cell_loader import CellLoader
from lr_study.errors import reason_of
from lr_study.interruption import raise_if_signalled
from lr_study.stored_study import StoredStudy
from lr_study.trial import TrialAddress
from lr_study.trial_task import TrialTask

log = logging.getLogger(__name__)

# Seconds between two looks at a job that a launcher has left running.
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """A trial as a Hydra job: its cell's overrides, and its own `values` after them."""

    stored: StoredStudy
    address: TrialAddress
    values: tuple[str, ...]

    def overrides(self, everywhere: Sequence[str]) -> list[str]:
        """All overrides, with those of `everywhere` whose keys the user did not give."""
        given = {key for key, _ in self.stored.cell.overrides}
        added = [override for override in everywhere if override.split("=", 1)[0] not in given]
        return [*(text for _, text in self.stored.cell.overrides), *added, *self.values]


class Launching:
    """Gives jobs to Hydra's launcher, and runs those that it lost again, one at a time.

    Attributes:
        next_job: the next job's number; earlier commands of the same sweep had the lower ones.
    """

    def __init__(self, context: HydraContext, config: DictConfig, task: TrialTask) -> None:
        self.next_job = 0
        self._task = task
        self._loader = CellLoader(context.config_loader)
        ours = HydraContext(config_loader=cast(ConfigLoader, self._loader), callbacks=context.callbacks)
        self._launcher = Plugins.instance().instantiate_launcher(hydra_context=ours, task_function=task, config=config)

    def run(self, jobs: Sequence[Job], everywhere: Sequence[str]) -> list[JobReturn]:
        """Run jobs until each has a result, or is closed as failed.

        What the launcher returns or raises is only a hint: the storage knows which trials have ended.
        """
        numbered = list(enumerate(jobs, start=self.next_job))
        self._task.jobs = {number: job.address for number, job in numbered}
        self._loader.know([job.stored.cell for job in jobs])
        returned, error = self._launch(jobs, self.next_job, everywhere)
        raise_if_signalled()
        self.next_job += len(jobs)
        if error is not None:
            log.warning(
                "The launcher failed (%s).\nIts unfinished trials are run again, one at a time.", reason_of(error)
            )
        for number, job in numbered:
            if not job.stored.is_running(job.address):
                continue
            _, error = self._launch([job], number, everywhere)
            if job.stored.is_running(job.address):
                cause = "ended without a result" if error is None else f"died: {reason_of(error)}"
                job.stored.close(job.address.trial_id, "failed", {"error": f"its process {cause}"})
        return returned

    def _launch(
        self, jobs: Sequence[Job], number: int, everywhere: Sequence[str]
    ) -> tuple[list[JobReturn], Exception | None]:
        """Launch jobs; returns what the launcher returned or raised, once none of them runs any more."""
        overrides = [job.overrides(everywhere) for job in jobs]
        try:
            return list(self._launcher.launch(overrides, initial_job_idx=number)), None
        except Exception as error:
            # A launcher that raises may leave jobs running; one that returns has seen them all end.
            while any(job.stored.runs_elsewhere(job.address) for job in jobs):
                time.sleep(POLL_SECONDS)
            return [], error
