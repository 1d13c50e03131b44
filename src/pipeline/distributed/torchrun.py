"""The workers that torchrun started: their process group, and why they ended.

torchrun sends SIGTERM to all workers as soon as one has ended. A batch system that ends a job does the same. To tell
them apart, each worker that gets SIGTERM, or is done, leaves a notice in torchrun's store. One that crashed can't. So
if all notices are there the run was interrupted; else it failed.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from pipeline.distributed.process_group import ADVICE, abort_nccl, is_lost_peer, process_group, wait_until
from pipeline.errors import RunError

if TYPE_CHECKING:
    import torch.distributed as dist

# What torchrun tells each process (torch.distributed's "env://").
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Each worker builds its workload first, at its own pace.
START_SECONDS = 600.0
# How long rank 0 waits for the others' notices; how long a worker waits for SIGTERM after it lost another; and how
# long the main thread may take to react to SIGTERM. torchrun sends SIGKILL after 30 s.
NOTICE_SECONDS, SIGNAL_SECONDS, REACTION_SECONDS = 3.0, 0.5, 5.0
TERMINATED = 143  # exit code, by `pipeline.command`


def torchrun_rank() -> tuple[int, int] | None:
    """Return (rank, world size) if torchrun, or a launcher that sets the same variables, started this process."""
    if any(name not in os.environ for name in VARIABLES) or int(os.environ["WORLD_SIZE"]) == 1:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


@contextlib.contextmanager
def process_group_of_torchrun() -> Iterator[None]:
    """Form the process group of the workers that torchrun started.

    Raises:
        RunError: another worker crashed, or didn't start.
        SystemExit: SIGTERM arrived; in rank 0 only if it arrived at all workers.
    """
    store, rank, size = _connect()
    notices = _Notices(_connect()[0], rank, size)  # a connection of its own: the other one may be blocked
    deadline = time.monotonic() + START_SECONDS

    def check() -> None:
        if time.monotonic() > deadline:
            raise RunError(
                f"Not all {size} workers were ready after {START_SECONDS:.0f} s.\nSee what the others print."
            )

    with notices.left_on_sigterm():
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


def _connect() -> "tuple[dist.Store, int, int]":
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://", timeout=timedelta(seconds=START_SECONDS)))


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

    def are_left_by_all(self) -> bool:
        """Wait a moment for the notices of all workers, and return whether they came; True if the store is gone."""
        try:
            return wait_until(lambda: self._store.check(self._keys), NOTICE_SECONDS)
        except RuntimeError:
            return True

    @contextlib.contextmanager
    def left_on_sigterm(self) -> Iterator[None]:
        """Leave the notice as soon as SIGTERM arrives within the block.

        A thread does it: the main thread may be blocked inside a library call, where Python's signal handlers don't
        run. Python writes the number of each signal into the socket all the same.
        """
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        is_over = threading.Event()
        thread = threading.Thread(target=self._listen, args=(reader, is_over), name="hearing signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            signal.set_wakeup_fd(before)
            writer.close()
            thread.join()
            reader.close()

    def _listen(self, reader: socket.socket, is_over: threading.Event) -> None:
        while number := reader.recv(1):
            if number[0] == signal.SIGTERM:
                self.leave()
                self.was_told.set()
                if not is_over.wait(REACTION_SECONDS):
                    abort_nccl()
