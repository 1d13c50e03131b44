"""Several processes that train one run together: `runtime.workers=K`, or K processes started by torchrun.

The process that was asked for the run is the first worker: it alone tracks, reports and decides. With
`runtime.workers` it starts the others, as `python -m pipeline.worker`, and tells each what to do on its stdin; under
torchrun they are there already. All build the same workload, and `pipeline.engine.fit` does the rest.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline import child
from pipeline.errors import RequestError, RunError

if TYPE_CHECKING:
    import torch.distributed as dist

    from pipeline.engine import Workers

HOST = "127.0.0.1"
# What torchrun tells each process (torch.distributed's "env://").
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
POLL_SECONDS = 0.05
# A process that has crashed closes its connections first, and is gone a moment later.
GONE_SECONDS = 5.0
# Exit code of a worker that only suffered from another's end.
PEER_LOST = 4


def place_under_torchrun() -> tuple[int, int] | None:
    """(rank, count) where torchrun, or another launcher that sets the same variables, started this process."""
    if any(name not in os.environ for name in TORCHRUN) or int(os.environ["WORLD_SIZE"]) == 1:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def own_place(config: dict[str, Any]) -> tuple[int, int]:
    """(rank, count) of this process, which is written into the resolved `config` as `runtime.workers`.

    Raises:
        RequestError: torchrun started another number of processes than was asked for.
    """
    asked = config["runtime"]["workers"]
    given = place_under_torchrun()
    if given is None:
        return 0, asked
    if asked not in (1, given[1]):
        raise RequestError(
            f"runtime.workers={asked}, and torchrun started {given[1]}.\nLeave runtime.workers out: torchrun's counts."
        )
    config["runtime"]["workers"] = given[1]
    return given


@contextlib.contextmanager
def gathered(config: dict[str, Any], workers: "Workers", one_of_many: bool) -> Iterator[None]:
    """The process group of the run that `config` describes, as long as the block lasts; entered by the first worker.

    Raises:
        RunError: another worker ended before the run did.
    """
    if workers.count == 1:
        yield
        return
    if place_under_torchrun() is not None:
        with _group_of_torchrun():
            yield
        return
    import torch.distributed as dist

    # Listens on loopback alone, on a port that is free.
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    asked = {"config": config, "count": workers.count, "port": store.port, "one_of_many": one_of_many}
    others = {rank: _start(asked | {"rank": rank}) for rank in range(1, workers.count)}
    try:
        for rank, process in others.items():
            while not store.check([f"ready {rank}"]):
                if process.poll() is not None:
                    raise _lost(others, workers.count)
                time.sleep(POLL_SECONDS)
        _use_loopback()
        with _group(store, 0, workers.count):
            yield
        for process in others.values():
            with contextlib.suppress(subprocess.TimeoutExpired):  # its share is done; it is ended below
                process.wait(timeout=GONE_SECONDS)
    except Exception as error:
        if is_lost_peer(error):
            raise _lost(others, workers.count) from None
        raise
    finally:
        for process in others.values():
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def assist(config: dict[str, Any], rank: int, count: int, one_of_many: bool = False) -> None:
    """Be the worker `rank` above 0 of a run under torchrun."""
    from pipeline.engine import Workers
    from pipeline.workload import prepare

    workload = prepare(config, one_of_many, Workers(rank, count))
    with _group_of_torchrun():
        _work(config, workload)


def leave_the_word_to_the_first() -> NoReturn:
    """Leave with exit code 2, once the first worker, who refuses the same request, has said why.

    torchrun ends all processes as soon as one has ended, mostly before this comes to its end.
    """
    time.sleep(GONE_SECONDS)
    sys.exit(2)


def is_lost_peer(error: BaseException | None) -> bool:
    """Whether `error` is what torch raises where another worker is gone."""
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def _work(config: dict[str, Any], workload: Any) -> None:
    """Take this worker's share, until the run is over."""
    from pipeline.engine import evaluate, fit

    result = fit(
        *(workload.model, workload.optimizer, workload.splits, workload.plan, workload.schedule),
        batch=config["batch"],
        seed=config["seed"],
        micro_batch=config["batching"]["micro_batch"],
        precision=workload.runtime.precision,
        compiled=workload.runtime.compiled,
        workers=workload.runtime.workers,
    )
    if result.has_test:
        evaluate(workload.model, workload.splits.test, workers=workload.runtime.workers)


def _start(asked: dict[str, Any]) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.worker"],
        stdin=subprocess.PIPE,
        stdout=sys.__stderr__,  # what a user's code prints there must not mix with what the first one prints
        env=child.environment(),
        text=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once: noticed where it is waited for
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
    return process


def _lost(others: "dict[int, subprocess.Popen[str]]", count: int) -> RunError:
    """What to say where a worker is gone."""
    deadline = time.monotonic() + GONE_SECONDS
    while time.monotonic() < deadline:
        codes = {rank: process.poll() for rank, process in others.items()}
        culprits = {rank: code for rank, code in codes.items() if code not in (None, 0, PEER_LOST)}
        if culprits:
            rank, code = next(iter(culprits.items()))
            assert code is not None
            how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"failed (exit code {code})"
            return RunError(f"Worker {rank} of {count} {how}; the others were ended.\n{ADVICE}")
        time.sleep(POLL_SECONDS)
    return RunError(f"The workers lost each other.\n{ADVICE}")


ADVICE = "Its own words, if any, stand above. A run with resume=auto goes on from its last checkpoint."


@contextlib.contextmanager
def _group(store: "dist.Store | None", rank: int, count: int) -> Iterator[None]:
    import torch
    import torch.distributed as dist

    # What is said about tensors on the CPU goes by gloo; gradients on GPUs by NCCL.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    place: dict[str, Any] = {} if store is None else {"store": store, "rank": rank, "world_size": count}
    dist.init_process_group(backend, **place)
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # a peer that is gone can't say good-bye
            dist.destroy_process_group()


@contextlib.contextmanager
def _group_of_torchrun() -> Iterator[None]:
    try:
        with _group(None, 0, 0):
            yield
    except (RuntimeError, SystemExit) as error:
        # torchrun ends the others as soon as one is gone, mostly before the loss itself is noticed here.
        if is_lost_peer(error) or (isinstance(error, SystemExit) and is_lost_peer(error.__context__)):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the run has to be closed first
            raise RunError(f"Another worker ended before the run did.\n{ADVICE}") from None
        raise


def _use_loopback() -> None:
    """Have gloo talk over loopback, where it would look up this machine's name; what the user set stays."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)


def main() -> None:
    """Be the worker that the first one asks for on stdin, and end with it."""
    # The terminal's Ctrl-C is the first worker's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    import torch.distributed as dist

    from pipeline.engine import Workers
    from pipeline.workload import prepare

    rank, count = asked["rank"], asked["count"]
    workload = prepare(asked["config"], asked["one_of_many"], Workers(rank, count))
    store = dist.TCPStore(HOST, asked["port"], is_master=False)
    _use_loopback()
    store.set(f"ready {rank}", "")
    try:
        with _group(store, rank, count):
            _work(asked["config"], workload)
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
