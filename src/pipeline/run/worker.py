"""The workers of one run: `runtime.workers=K`, or K processes that torchrun started.

The process that was asked for the run is rank 0: it alone tracks, reports and decides. With `runtime.workers` it
starts the others; under torchrun they exist already. All build the same workload and call `pipeline.engine.fit`.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NoReturn

from pipeline.config import Config
from pipeline.distributed.local_workers import LocalWorkers, process_group_of_worker
from pipeline.distributed.signals import exit_at_once
from pipeline.distributed.torchrun import process_group_of_torchrun, torchrun_rank
from pipeline.errors import RequestError

# How long rank 0, which refuses the same request, is given to say why.
REFUSAL_SECONDS = 5.0


def own_rank(config: Config) -> int:
    """Return this process's rank, and set `config.runtime.workers` to torchrun's world size if torchrun started it.

    Raises:
        RequestError: torchrun started another number of processes than was asked for.
    """
    asked = config.runtime.workers
    if (place := torchrun_rank()) is None:
        return 0
    rank, size = place
    # Read when torch is imported, which writes forty lines about each attempt to reach a machine that isn't there.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if asked not in (1, size):
        raise RequestError(
            f"runtime.workers={asked}, and torchrun started {size}.\nLeave runtime.workers out: torchrun's counts."
        )
    config.runtime.workers = size
    return rank


def process_group_of_run(
    config: Config, in_sweep: bool, on_abort: Callable[[BaseException], None] = lambda error: None
) -> AbstractContextManager[None]:
    """Start the other workers of a run where rank 0 has to, and form the process group; for rank 0.

    `on_abort` is called with the error, from another thread, before this process is ended because the main thread
    doesn't react to the loss of a worker or to a signal.

    Raises:
        RunError: (from the block) another worker ended before the run did.
    """
    size = config.runtime.workers
    if size == 1:
        return contextlib.nullcontext()
    if (place := torchrun_rank()) is not None:
        return process_group_of_torchrun(*place, on_abort)
    target = functools.partial(_train_share, config=config, in_sweep=in_sweep)
    return LocalWorkers(size, target, on_abort).process_group()


def train_under_torchrun(config: Config, rank: int) -> NoReturn:
    """Train as worker `rank` above 0 of a run under torchrun, and end with exit code 0 when the run is over."""
    _train_share(rank, None, config, in_sweep=False)
    exit_at_once(0)


def _train_share(rank: int, port: int | None, config: Config, in_sweep: bool) -> None:
    """Build the workload, then take this worker's share of the training; `port` is for workers that rank 0 started."""
    from pipeline.engine import World, evaluate
    from pipeline.run.workload import build_workload

    size = config.runtime.workers
    workload = build_workload(config, in_sweep, World(rank, size))
    with process_group_of_torchrun(rank, size) if port is None else process_group_of_worker(port, rank, size):
        if workload.fit(config).has_test:
            evaluate(workload.model, workload.splits.test, world=workload.runtime.world)


def await_refusal_of_rank_0() -> None:
    """Wait for rank 0, which refuses the same request, to say why and end; torchrun then ends this process, too.

    If it doesn't, there is no such rank 0, and this process has to say it.
    """
    time.sleep(REFUSAL_SECONDS)
