"""The worker processes of `hydra/launcher=processes`, and how a launch's jobs are sent to them and run."""

import functools
import os
import pickle
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cloudpickle
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from joblib import Parallel
from omegaconf import DictConfig, open_dict

# Seconds between two looks whether the driver lives.
WATCH_SECONDS = 1.0
TARGET = "hydra_plugins.processes_launcher.processes_launcher.ProcessesLauncher"


def workers(n_jobs: int, return_as: str = "list") -> Parallel:
    """Worker processes that outlive a call: the next call with the same `n_jobs` gets the same ones.

    Args:
        n_jobs: how many; joblib's -1 is one for each core, -2 one less, …
        return_as: `list`, or `generator`, which waits for each result only when it is asked for.
    """
    # Where a signal cuts a launch off, joblib counts the tasks that it leaves; the sweep says more.
    warnings.filterwarnings("ignore", r"\d+ tasks which were still being processed", UserWarning)
    # In batches of one, since jobs differ in length.
    return Parallel(n_jobs=n_jobs, backend="loky", batch_size=1, pre_dispatch="all", return_as=return_as)


def dismiss_workers(at_once: bool = False) -> None:
    """Tell the workers, if there are any, to end, and don't wait for them; `at_once` kills them."""
    # Private part of joblib: its public get_reusable_executor makes an executor where there is none. Without this one,
    # the workers end by themselves after five minutes, or with this process.
    try:
        from joblib.externals.loky.reusable_executor import _executor as executor
    except ImportError:
        return
    if executor is not None:
        if at_once:
            _silence_manager()
        executor.shutdown(wait=False, kill_workers=at_once)


def _silence_manager() -> None:
    """Keep the traceback of loky's own thread off the terminal: its work vanishes while workers still start."""
    show = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("joblib."):
            show(failure)

    threading.excepthook = hook


@dataclass(frozen=True)
class Launch:
    """What the jobs of a launch have in common."""

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
        return run_job(
            hydra_context=self.context,
            config=config,
            task_function=self.task_function,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def pack(launch: Launch) -> tuple[bytes, bytes]:
    """Pickle, once for all jobs, `launch` (the app's own classes by value) and Hydra's singletons and resolvers."""
    return cloudpickle.dumps(launch), cloudpickle.dumps(Singleton.get_state())


@functools.cache
def end_with_driver() -> None:
    """From now on let this worker process end when its driver has died; joblib's own waits for minutes."""
    driver = os.getppid()

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="watching the driver", daemon=True).start()


# The launch that this process unpacked last, while it is a worker, and what it was unpacked from.
_last: tuple[bytes, Launch] | None = None


def run_packed(packed: tuple[bytes, bytes], number: int, overrides: Sequence[str]) -> JobReturn:
    """Run a job of a packed launch in this worker process."""
    global _last
    end_with_driver()
    launch, singletons = packed
    # New for each job, so that what one job registers does not reach the next.
    state = pickle.loads(singletons)
    # Private part of Hydra: without this key of its state, it finds its plugins again for each job, in 0.1 s.
    if "instances" in state:
        state["instances"][Plugins] = Plugins.instance()
    Singleton.set_state(state)
    if _last is None or _last[0] != launch:
        _last = launch, pickle.loads(launch)
    return _last[1].run(number, overrides)
