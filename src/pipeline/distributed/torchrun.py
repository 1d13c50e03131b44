"""The processes that torchrun started: how they meet, and what is made of their end.

torchrun ends all as soon as one is gone, by the signal by which a batch system would end them all. What happened is
told by the words that they leave: one that was told to end, or is done, leaves one, and one that died can't.
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

from pipeline.distributed.process_group import ADVICE, POLL_SECONDS, free_what_waits, group, is_lost_peer
from pipeline.errors import RunError

if TYPE_CHECKING:
    import torch.distributed as dist

# What torchrun tells each process (torch.distributed's "env://").
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# All build their workload first, at their own pace.
MEETING_SECONDS = 600.0
# How long the others are given to leave their words, a signal that was sent to all to arrive here, too, and the main
# thread to act on it before what it waits for is ended; torchrun itself waits for thirty.
WORDS_SECONDS, SIGNAL_SECONDS, NOTICE_SECONDS = 3.0, 0.5, 5.0
TERMINATED = 143  # exit code, by `pipeline.command`


def torchrun_rank() -> tuple[int, int] | None:
    """(rank, count) where torchrun, or another launcher that sets the same variables, started this process."""
    if any(name not in os.environ for name in VARIABLES) or int(os.environ["WORLD_SIZE"]) == 1:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


@contextlib.contextmanager
def group_of_torchrun() -> Iterator[None]:
    """The process group of the processes that torchrun started.

    Raises:
        RunError: another one died.
        SystemExit: this one was told to end, and in the first, all were.
    """
    store, rank, count = _store()
    words = _Words(_store()[0], rank, count)  # the other one may be waited for
    try:
        with words.left_when_told(), group(store, rank, count, patience=MEETING_SECONDS):
            yield
    except (RuntimeError, SystemExit) as error:
        was_told = isinstance(error, SystemExit) and error.code == TERMINATED
        if not was_told and not is_lost_peer(error):
            raise
        was_told = was_told or _is_told_to_end()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what happened has to be said first
        if was_told:
            words.leave()
        if was_told and (rank or words.are_left_by_all()):
            raise SystemExit(TERMINATED) from None
        raise RunError(f"Another worker ended before the run did.\n{ADVICE}") from None
    words.leave()


def _store() -> "tuple[dist.Store, int, int]":
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://", timeout=timedelta(seconds=MEETING_SECONDS)))


class _Words:
    """What each process leaves in `store`, which outlives it."""

    def __init__(self, store: "dist.Store", rank: int, count: int) -> None:
        self._store = store
        self._own = f"left {rank}"
        self._all = [f"left {rank}" for rank in range(count)]

    def leave(self) -> None:
        """Leave this process's."""
        with contextlib.suppress(RuntimeError):  # the store may be another's, who is gone
            self._store.set(self._own, "")

    def are_left_by_all(self) -> bool:
        """Whether each has left its word, or does so in a moment."""
        deadline = time.monotonic() + WORDS_SECONDS
        with contextlib.suppress(RuntimeError):  # without the store it can't be told
            while not self._store.check(self._all):
                if time.monotonic() > deadline:
                    return False
                time.sleep(POLL_SECONDS)
        return True

    @contextlib.contextmanager
    def left_when_told(self) -> Iterator[None]:
        """Within the block, leave it as soon as this process is told to end.

        By a thread, for the main thread may be waiting for the others in a library, where Python's own handlers of
        signals don't reach it.
        """
        ear, bell = socket.socketpair()
        bell.setblocking(False)
        before = signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
        is_over = threading.Event()
        thread = threading.Thread(target=self._listen, args=(ear, is_over), name="hearing signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            signal.set_wakeup_fd(before)
            bell.close()
            thread.join()
            ear.close()

    def _listen(self, ear: socket.socket, is_over: threading.Event) -> None:
        while number := ear.recv(1):
            if number[0] == signal.SIGTERM:
                self.leave()
                if not is_over.wait(NOTICE_SECONDS):
                    free_what_waits()


def _is_told_to_end() -> bool:
    """Whether the signal that ended another one arrives here, too."""
    try:
        time.sleep(SIGNAL_SECONDS)
    except SystemExit:
        return True
    return False
