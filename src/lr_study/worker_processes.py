"""The worker processes, and what they are given: a launch's common part once, then one job after the other."""

import contextlib
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from joblib import Parallel
from omegaconf import DictConfig, open_dict

TARGET = "hydra_plugins.processes_launcher.processes_launcher.ProcessesLauncher"


def workers(n_jobs: int, return_as: str = "list") -> Parallel:
    """Worker processes that outlive a call: whoever asks for as many gets the same ones again.

    Args:
        n_jobs: how many; joblib's -1 is one for each core, -2 one less, …
        return_as: `list`, or `generator`, which waits for the results only where they are asked for.
    """
    # One by one, since jobs differ in length.
    return Parallel(n_jobs=n_jobs, backend="loky", batch_size=1, pre_dispatch="all", return_as=return_as)


def dismiss_workers() -> None:
    """Let the workers end, where there are any, without waiting for them: nothing more is to be run."""
    from joblib.externals.loky import reusable_executor

    # Not get_reusable_executor: it starts some where there are none.
    if (executor := getattr(reusable_executor, "_executor", None)) is not None:
        executor.shutdown(wait=False)


@dataclass(frozen=True)
class Launch:
    """What all jobs of a launch have in common."""

    context: HydraContext
    config: DictConfig
    task_function: TaskFunction

    def run(self, number: int, overrides: Sequence[str]) -> JobReturn:
        """Compose a job's configuration and run it in this process."""
        setup_globals()
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{number}"
            config.hydra.job.num = number
        with _copied_once():
            return run_job(
                hydra_context=self.context,
                config=config,
                task_function=self.task_function,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )


@contextlib.contextmanager
def _copied_once() -> Iterator[None]:
    """Let a job's own node `hydra` be copied once for it, and not twice: 10 ms.

    `run_job` tells `HydraConfig` of the configuration first to find the job's folder, which needs no copy, and then
    again, with the folder in it.
    """
    known = HydraConfig.instance()

    def take_as_it_is(config: DictConfig) -> None:
        del known.set_config
        known.cfg = config  # type: ignore[assignment]

    known.set_config = take_as_it_is  # type: ignore
    try:
        yield
    finally:
        vars(known).pop("set_config", None)


@dataclass(frozen=True)
class Packed:
    """A launch on its way to the workers, pickled once for all its jobs.

    Attributes:
        launch: a `Launch`; by value where a script's own classes and functions are in it.
        state: Hydra's singletons and resolvers.
    """

    launch: bytes
    state: bytes


def pack(launch: Launch) -> Packed:
    """Pickle `launch` and what this process has told Hydra and OmegaConf."""
    return Packed(cloudpickle.dumps(launch), cloudpickle.dumps(Singleton.get_state()))


# This process's, while it is a worker: the launch that it unpacked last, and Hydra's plugins.
_last: tuple[bytes, Launch] | None = None
_plugins: Any = None


def run_packed(packed: Packed, number: int, overrides: Sequence[str]) -> JobReturn:
    """Run a job of a packed launch in this worker process."""
    global _last, _plugins
    # Afresh for each job: what one registers must not meet the next. But to find the plugins again takes 0.1 s.
    state = pickle.loads(packed.state)
    if _plugins is not None:
        state["instances"][Plugins] = _plugins
    Singleton.set_state(state)
    _plugins = Plugins.instance()
    if _last is None or _last[0] != packed.launch:
        _last = packed.launch, pickle.loads(packed.launch)
    return _last[1].run(number, overrides)
