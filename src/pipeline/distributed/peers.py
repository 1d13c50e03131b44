"""The other processes of a run, as its first worker has them: started, watched, and ended with it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.distributed import child
from pipeline.distributed.process_group import ADVICE, POLL_SECONDS, free_what_waits
from pipeline.errors import RunError

if TYPE_CHECKING:
    import torch.distributed as dist

# Exit code of a worker that only suffered from another's end.
PEER_LOST = 4
WATCH_SECONDS = 0.5
# A process that has crashed closes its connections first, and is gone a moment later.
GONE_SECONDS = 5.0
# A batch system sends the same signal to all: the one to this process may be on its way.
SIGNAL_SECONDS = 1.0
# How long the main thread may take to notice a loss. It can't, where it waits in a library that goes on waiting.
NOTICE_SECONDS = 15.0


class Peers:
    """The workers 1 … `count` − 1 of a run.

    A thread looks after them. Where one has ended before its time, what waits for it is freed; and if the main thread
    doesn't notice all the same, the thread itself ends this process.

    Args:
        count: of workers, this one among them.
        asked: what each is told on its stdin, beside its rank.
        last_words: called with a message before this process is ended by the thread.
    """

    def __init__(self, count: int, asked: Mapping[str, Any], last_words: Callable[[str], None]) -> None:
        self.count = count
        self._last_words = last_words
        self._processes = {rank: _start({**asked, "rank": rank}) for rank in range(1, count)}
        self._is_over = threading.Event()
        self._watch = threading.Thread(target=self._keep_watch, name="watching workers", daemon=True)
        self._watch.start()

    def wait_until_ready(self, store: "dist.Store") -> None:
        """Wait until each has said in `store` that it is `ready`."""
        while not store.check([f"ready {rank}" for rank in self._processes]):
            self.check()
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raise RunError where one has ended before its time."""
        if self.is_one_gone():
            raise self.loss()

    def is_one_gone(self) -> bool:
        """Whether one has ended otherwise than well."""
        return any(process.poll() for process in self._processes.values())

    def loss(self) -> RunError:
        """What to say where one is gone."""
        deadline = time.monotonic() + GONE_SECONDS
        while time.monotonic() < deadline:
            codes = {rank: process.poll() for rank, process in self._processes.items()}
            culprits = [(rank, code) for rank, code in codes.items() if code and code != PEER_LOST]
            if culprits:
                rank, code = culprits[0]
                if code == -signal.SIGTERM:
                    time.sleep(SIGNAL_SECONDS)
                how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"failed (exit code {code})"
                return RunError(f"Worker {rank} of {self.count} {how}; the others were ended.\n{ADVICE}")
            time.sleep(POLL_SECONDS)
        return RunError(f"The workers lost each other.\n{ADVICE}")

    def see_off(self) -> None:
        """Let them come to their end, now that their share is done."""
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is ended by `end`
                process.wait(timeout=GONE_SECONDS)

    def end(self) -> None:
        """End those that are there still."""
        self._is_over.set()
        for process in self._processes.values():
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        self._watch.join()

    def _keep_watch(self) -> None:
        while not self._is_over.wait(WATCH_SECONDS):
            if self.is_one_gone():
                free_what_waits()
                if not self._is_over.wait(NOTICE_SECONDS):
                    self._leave()
                return

    def _leave(self) -> None:
        message = str(self.loss())
        try:
            self._last_words(message)
        finally:
            print(message, file=sys.stderr, flush=True)
            os._exit(1)  # the main thread can't be reached


def _start(asked: Mapping[str, Any]) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.run.worker"],
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
