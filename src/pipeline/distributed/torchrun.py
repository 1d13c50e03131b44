"""The workers that torchrun started: their process group, and why they ended.

torchrun sends SIGTERM to all workers as soon as one has ended. A batch system that ends a job does the same. To tell
them apart, each worker that gets SIGTERM, or is done, leaves a notice in torchrun's store. One that crashed can't. So
if all notices are there the run was interrupted; else it failed.
"""

import contextlib
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING

from lr_study import reason_of
from pipeline.distributed.process_group import (
    ADVICE,
    POLL_SECONDS,
    abort_nccl,
    is_lost_peer,
    process_group,
    wait_until,
)
from pipeline.distributed.signals import EXIT_CODES, heard_signals
from pipeline.errors import RequestError, RunError

if TYPE_CHECKING:
    import torch.distributed as dist

log = logging.getLogger("pipeline.distributed")
# What torchrun tells each process (torch.distributed's "env://").
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
IF_LEFT_OVER = f"If torchrun didn't start this: unset {' '.join(VARIABLES)}."
# Each worker builds its workload first, at its own pace. After a while a worker says that it waits.
START_SECONDS, QUIET_SECONDS = 600.0, 5.0
# How long rank 0 waits for the others' notices; how long a worker waits for SIGTERM after it lost another.
NOTICE_SECONDS, SIGNAL_SECONDS = 3.0, 0.5
TERMINATED = EXIT_CODES[signal.SIGTERM]


def torchrun_rank() -> tuple[int, int] | None:
    """Return (rank, world size) if torchrun, or a launcher that sets the same variables, started this process.

    Raises:
        RequestError: a variable has a value that no launcher gives it.
    """
    if any(name not in os.environ for name in VARIABLES) or (size := _whole_number("WORLD_SIZE", 1)) == 1:
        return None
    _whole_number("MASTER_PORT", 1, 65535)
    if not os.environ["MASTER_ADDR"].strip():
        raise RequestError(f"MASTER_ADDR={os.environ['MASTER_ADDR']}: it must name a machine.\n{IF_LEFT_OVER}")
    return _whole_number("RANK", 0, size - 1), size


def _whole_number(variable: str, low: int, high: int | None = None) -> int:
    given = os.environ[variable]
    if re.fullmatch(r"\d{1,9}", given, re.ASCII) and low <= int(given) and (high is None or int(given) <= high):
        return int(given)
    allowed = f"from {low} up" if high is None else f"from {low} to {high}"
    raise RequestError(f"{variable}={given}: it must be a whole number {allowed}.\n{IF_LEFT_OVER}")


@contextlib.contextmanager
def process_group_of_torchrun(
    rank: int, size: int, on_abort: Callable[[BaseException], None] = lambda error: None
) -> Iterator[None]:
    """Form the process group of the workers that torchrun started.

    `on_abort` is called with the error, from another thread, before this process is ended because the main thread
    doesn't react to a signal.

    Raises:
        RunError: another worker crashed, or didn't start.
        SystemExit: SIGTERM arrived; in rank 0 only if it arrived at all workers.
    """
    check = _patience(rank, size)
    store, another = _connect(check)
    notices = _Notices(another, rank, size)
    with heard_signals(on_abort, notices.leave_on_sigterm, abort_nccl):
        try:
            with process_group(store, rank, size, check):
                yield
        except (RuntimeError, SystemExit) as error:
            is_terminated = isinstance(error, SystemExit) and error.code == TERMINATED
            if not is_terminated and not is_lost_peer(error):
                raise
            signal.signal(signal.SIGTERM, lambda number, frame: None)  # the run is closed first
            if notices.was_told.wait(SIGNAL_SECONDS) and (rank or notices.are_left_by_all()):
                raise SystemExit(TERMINATED) from None
            raise RunError(f"Another worker ended before the run did.\n{ADVICE}") from None
    notices.leave()


def _patience(rank: int, size: int) -> Callable[[], None]:
    """Return a function to call while this worker waits for the others: it says so, and raises RunError in the end."""
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    started, has_told = time.monotonic(), False

    def check() -> None:
        nonlocal has_told
        waited = time.monotonic() - started
        if waited > START_SECONDS:
            raise RunError(
                f"Not all {size} workers were ready after {START_SECONDS:.0f} s.\nSee what the others print."
                f" {IF_LEFT_OVER}"
            )
        if waited > QUIET_SECONDS and not has_told:
            has_told = True
            log.info(
                "Worker %d of %d waits for the others at %s, up to %.0f s. %s",
                *(rank, size, place, START_SECONDS, IF_LEFT_OVER),
            )

    return check


def _connect(check: Callable[[], None]) -> "tuple[dist.Store, dist.Store]":
    """Connect to torchrun's store twice: one connection may be blocked when the other is needed.

    A thread does it, since torch waits inside its own code, and this one calls `check` repeatedly.

    Raises:
        RunError: the store can't be reached, or can't be opened here.
    """
    from torch.distributed.rendezvous import rendezvous

    connected: Future[tuple[dist.Store, dist.Store]] = Future()

    def connect() -> None:
        try:
            first, second = (next(rendezvous("env://", timeout=timedelta(seconds=START_SECONDS))) for _ in range(2))
            connected.set_result((first[0], second[0]))
        except Exception as error:
            connected.set_exception(error)

    threading.Thread(target=connect, name="connecting to the store", daemon=True).start()
    while not connected.done():
        check()
        time.sleep(POLL_SECONDS)
    if (error := connected.exception()) is not None:
        raise RunError(f"The workers can't meet: {reason_of(error)}.\n{IF_LEFT_OVER}") from None
    return connected.result()


class _Notices:
    """Keys in torchrun's store: one for each worker that was told to end, or is done."""

    def __init__(self, store: "dist.Store", rank: int, size: int) -> None:
        self._store = store
        self._keys = [f"told to end {other}" for other in range(size)]
        self._own = self._keys[rank]
        self.was_told = threading.Event()  # set once SIGTERM has arrived here

    def leave(self) -> None:
        """Leave this worker's notice."""
        with contextlib.suppress(RuntimeError):  # the store may be gone
            self._store.set(self._own, "")

    def leave_on_sigterm(self, number: int) -> None:
        """Leave the notice if `number` is that of SIGTERM."""
        if number == signal.SIGTERM:
            self.leave()
            self.was_told.set()

    def are_left_by_all(self) -> bool:
        """Wait a moment for the notices of all workers, and return whether they came; True if the store is gone."""
        try:
            return wait_until(lambda: self._store.check(self._keys), NOTICE_SECONDS)
        except RuntimeError:
            return True
