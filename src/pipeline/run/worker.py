"""The workers of one run: `runtime.workers=K`, or K processes that torchrun started.

The process that was asked for the run is rank 0: it alone tracks, reports and decides. With `runtime.workers` it
starts the others; under torchrun they exist already. All build the same workload and call `pipeline.engine.fit`.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NoReturn

from pipeline.config import Config
from pipeline.distributed.local_workers import LocalWorkers, exit_at_once, process_group_of_worker
from pipeline.distributed.torchrun import process_group_of_torchrun, torchrun_rank
from pipeline.errors import RequestError

# How long rank 0, which refuses the same request, is given to print why.
REFUSAL_SECONDS = 5.0


def own_rank(config: Config) -> int:
    """Return this process's rank, and set `config.runtime.workers` to torchrun's world size if torchrun started it.

    Raises:
        RequestError: torchrun started another number of processes than was asked for.
    """
    asked = config.runtime.workers
    rank, size = torchrun_rank() or (0, asked)
    if asked not in (1, size):
        raise RequestError(
            f"runtime.workers={asked}, and torchrun started {size}.\nLeave runtime.workers out: torchrun's counts."
        )
    config.runtime.workers = size
    return rank


def process_group_of_run(
    config: Config, in_sweep: bool, on_abort: Callable[[str], None] = lambda message: None
) -> AbstractContextManager[None]:
    """Start the other workers of a run where rank 0 has to, and form the process group; for rank 0.

    Args:
        config: of the run.
        in_sweep: whether other trials run beside this one.
        on_abort: called with a message, from another thread, before this process is ended because a worker is gone
            and the main thread doesn't react.

    Raises:
        RunError: (from the block) another worker ended before the run did.
    """
    size = config.runtime.workers
    if size == 1:
        return contextlib.nullcontext()
    if torchrun_rank() is not None:
        return process_group_of_torchrun()
    return LocalWorkers(size, _train_as_local_worker, (config, in_sweep), on_abort).process_group()


def train_under_torchrun(config: Config, rank: int) -> NoReturn:
    """Train as worker `rank` above 0 of a run under torchrun, and end with exit code 0 when the run is over."""
    _train_share(config, rank, in_sweep=False, group=process_group_of_torchrun())
    exit_at_once(0)


def _train_as_local_worker(rank: int, port: int, config: Config, in_sweep: bool) -> None:
    _train_share(config, rank, in_sweep, process_group_of_worker(port, rank, config.runtime.workers))


def _train_share(config: Config, rank: int, in_sweep: bool, group: AbstractContextManager[None]) -> None:
    """Build the workload, then take this worker's share of the training inside `group`."""
    from pipeline.engine import World, evaluate, fit
    from pipeline.run.workload import build_workload

    workload = build_workload(config, in_sweep, World(rank, config.runtime.workers))
    with group:
        result = fit(
            *(workload.model, workload.optimizer, workload.splits, workload.plan, workload.schedule),
            batch=config.batch,
            seed=config.seed,
            micro_batch=workload.micro_batch,
            precision=workload.runtime.precision,
            compiled=workload.runtime.compiled,
            world=workload.runtime.world,
        )
        if result.has_test:
            evaluate(workload.model, workload.splits.test, world=workload.runtime.world)


def exit_after_refusal_of_rank_0() -> NoReturn:
    """End with exit code 2, once rank 0, which refuses the same request, has printed why.

    torchrun ends all processes as soon as one has ended, mostly before this one does.
    """
    time.sleep(REFUSAL_SECONDS)
    sys.exit(2)
