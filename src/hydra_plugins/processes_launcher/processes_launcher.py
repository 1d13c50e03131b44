"""The launcher class that Hydra finds, and its options. The work is in `lr_study.worker_processes`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, configure_log, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lr_study.masking import mask_tree

log = logging.getLogger(__name__)


@dataclass
class ProcessesLauncherConf:
    """`hydra/launcher=processes`."""

    _target_: str = "hydra_plugins.processes_launcher.processes_launcher.ProcessesLauncher"

    # Jobs at once; -1 is one for each core, -2 one less, and so on; 1 runs them in this process.
    n_jobs: int = -1


class ProcessesLauncher(Launcher):
    """Runs `n_jobs` jobs at once, in worker processes that the next launch uses again."""

    def __init__(self, n_jobs: int = -1) -> None:
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `launch` needs."""
        self._given = hydra_context, config, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a job for each list of overrides, and return their results in the same order.

        Raises:
            Exception: a worker died, or a job's result can't be pickled. The other jobs may have been run.
        """
        # Imported here, since every Hydra app on the machine imports this module.
        from joblib import delayed, effective_n_jobs

        from lr_study.worker_processes import Launch, pack, run_packed, workers

        launch = Launch(*self._given)
        hydra = launch.config.hydra
        setup_globals()
        configure_log(hydra.hydra_logging, hydra.verbose)
        Path(str(hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs = list(enumerate(job_overrides, start=initial_job_idx))
        log.info("Launching %d jobs, %d at once", len(jobs), effective_n_jobs(self.n_jobs))
        for number, overrides in jobs:
            log.info("\t#%d : %s", number, " ".join(mask_tree(filter_overrides(overrides))))
        if effective_n_jobs(self.n_jobs) == 1:
            returned = []
            for number, overrides in jobs:
                returned.append(launch.run(number, overrides))
                configure_log(hydra.hydra_logging, hydra.verbose)
            return returned
        packed = pack(launch)
        run = workers(self.n_jobs)
        return list(run(delayed(run_packed)(packed, number, overrides) for number, overrides in jobs))


ConfigStore.instance().store(
    group="hydra/launcher", name="processes", node=ProcessesLauncherConf, provider="processes_launcher"
)
