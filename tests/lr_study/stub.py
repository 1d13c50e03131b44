"""A launcher for tests: it calls the task at once, and computes how long real workers would have taken."""

import heapq
import time
from typing import ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf


class StubLauncher(Launcher):
    """Runs jobs in this process without composing them.

    Attributes:
        length: seconds that a job would take, from its overrides as a mapping.
        makespan: seconds that `workers` workers would have taken for all waves so far, one after another.
        job_seconds: processor seconds that the jobs really took here.
        waves: the overrides of every job, wave by wave, as mappings.
    """

    workers = 1
    length = staticmethod(lambda overrides: 0.0)
    makespan = 0.0
    job_seconds = 0.0
    waves: ClassVar[list[list[dict[str, str]]]] = []

    def setup(self, *, hydra_context, task_function, config):
        self.task_function = task_function

    def launch(self, job_overrides, initial_job_idx):
        StubLauncher.waves.append([dict(text.split("=", 1) for text in texts) for texts in job_overrides])
        free = [0.0] * self.workers  # when each worker is done
        for offset, overrides in enumerate(StubLauncher.waves[-1]):
            config = OmegaConf.create(
                {"hydra": {"job": {"num": initial_job_idx + offset}, "output_subdir": None}, **overrides}
            )
            HydraConfig.instance().cfg = config
            started = time.process_time()
            self.task_function(config)
            StubLauncher.job_seconds += time.process_time() - started
            heapq.heapreplace(free, free[0] + self.length(overrides))
        StubLauncher.makespan += max(free)
        return []


def register():
    """Make it `hydra/launcher=stub`, with its counts at zero."""
    StubLauncher.makespan = StubLauncher.job_seconds = 0.0
    StubLauncher.waves.clear()
    target = "hydra_plugins.stub.StubLauncher"  # Hydra takes plugins from nowhere else
    Plugins.instance().class_name_to_class[target] = StubLauncher
    ConfigStore.instance().store(group="hydra/launcher", name="stub", node={"_target_": target})
