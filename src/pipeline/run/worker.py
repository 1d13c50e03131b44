"""Several processes that train one run together: `runtime.workers=K`, or K processes started by torchrun.

The process that was asked for the run is the first worker: it alone tracks, reports and decides. With
`runtime.workers` it starts the others, as `python -m pipeline.run.worker`, and tells each what to do on stdin; under
torchrun they are there already. All build the same workload, and `pipeline.engine.fit` does the rest.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.config import Config, as_dict, from_dict
from pipeline.distributed.peers import PEER_LOST, Peers
from pipeline.distributed.process_group import HOST, LoopbackStore, group, is_lost_peer, use_loopback
from pipeline.distributed.torchrun import group_of_torchrun, torchrun_rank
from pipeline.errors import RequestError

if TYPE_CHECKING:
    from pipeline.engine import World

# How long the first worker, who refuses the same request, is given to say why.
REFUSAL_SECONDS = 5.0


def own_place(config: Config) -> tuple[int, int]:
    """(rank, count) of this process, which is written into the resolved `config` as `runtime.workers`.

    Raises:
        RequestError: torchrun started another number of processes than was asked for.
    """
    asked = config.runtime.workers
    given = torchrun_rank()
    if given is None:
        return 0, asked
    if asked not in (1, given[1]):
        raise RequestError(
            f"runtime.workers={asked}, and torchrun started {given[1]}.\nLeave runtime.workers out: torchrun's counts."
        )
    config.runtime.workers = given[1]
    return given


@contextlib.contextmanager
def gathered(
    config: Config,
    world: "World",
    in_sweep: bool,
    last_words: Callable[[str], None] = lambda message: None,
) -> Iterator[None]:
    """The process group of the run that `config` describes, as long as the block lasts; entered by the first worker.

    Args:
        config, world: of the run.
        in_sweep: whether other trials run beside this one.
        last_words: called with a message, from another thread, where a worker is gone and this process's main thread
            can't be told, before the process is ended.

    Raises:
        RunError: another worker ended before the run did.
    """
    if world.size == 1:
        yield
        return
    if torchrun_rank() is not None:
        with group_of_torchrun():
            yield
        return
    store = LoopbackStore()
    asked = {"config": as_dict(config), "count": world.size, "port": store.port, "in_sweep": in_sweep}
    peers = Peers(world.size, asked, last_words)
    try:
        peers.wait_until_ready(store.client)
        use_loopback()
        with group(store.client, 0, world.size, peers.check, store.close):
            yield
        peers.see_off()
    except Exception as error:
        if peers.is_one_gone() or is_lost_peer(error):
            raise peers.loss() from None
        raise
    finally:
        peers.end()


def assist(config: Config, rank: int, count: int, in_sweep: bool = False) -> NoReturn:
    """Be the worker `rank` above 0 of a run under torchrun, and leave with exit code 0 when the run is over."""
    from pipeline.engine import World
    from pipeline.run.workload import build_workload

    workload = build_workload(config, in_sweep, World(rank, count))
    with group_of_torchrun():
        _work(config, workload)
    # Threads of torch's may be at work still, and end a process that is being taken down with SIGABRT: for torchrun
    # that is a failure, for which it ends the first worker.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def leave_the_word_to_the_first() -> NoReturn:
    """Leave with exit code 2, once the first worker, who refuses the same request, has said why.

    torchrun ends all processes as soon as one has ended, mostly before this comes to its end.
    """
    time.sleep(REFUSAL_SECONDS)
    sys.exit(2)


def _work(config: Config, workload: Any) -> None:
    """Take this worker's share, until the run is over."""
    from pipeline.engine import evaluate, fit

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


def main() -> None:
    """Be the worker that the first one asks for on stdin, and end with it."""
    # The terminal's Ctrl-C is the first worker's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    import torch.distributed as dist

    from pipeline.engine import World
    from pipeline.run.workload import build_workload

    rank, count = asked["rank"], asked["count"]
    config = from_dict(asked["config"])
    workload = build_workload(config, asked["in_sweep"], World(rank, count))
    store = dist.TCPStore(HOST, asked["port"], is_master=False)
    use_loopback()
    store.set(f"ready {rank}", "")
    try:
        with group(store, rank, count):
            _work(config, workload)
    except RuntimeError as error:
        if is_lost_peer(error):
            os._exit(PEER_LOST)
        raise
    # Without waiting for threads of torch's, some of which are not there to be waited for at that point.
    sys.stderr.flush()
    os._exit(0)


def _end_with_the_first() -> None:
    sys.stdin.read()  # ends when the process that holds the other end does, however it ends
    os._exit(PEER_LOST)


if __name__ == "__main__":
    main()
