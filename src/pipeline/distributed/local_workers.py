"""The worker processes that rank 0 starts on its own machine (`runtime.workers`): started, watched, ended with it."""

import contextlib
import multiprocessing
import multiprocessing.popen_spawn_posix  # noqa: F401  (else imported in the middle of a run)
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess

from pipeline.distributed.process_group import (
    ADVICE,
    HOST,
    LoopbackStore,
    abort_nccl,
    is_lost_peer,
    process_group,
    silenced_stderr,
    use_loopback,
    wait_until,
)
from pipeline.distributed.signals import exit_at_once, heard_signals
from pipeline.errors import RunError

# Exit code of a worker that ended because another one did.
PEER_LOST = 4
WATCH_SECONDS = 0.5
# A process that crashes closes its connections first, and ends a moment later.
EXIT_SECONDS = 5.0
# A batch system sends SIGTERM to all processes: this one's may arrive a moment after a worker's.
SIGNAL_SECONDS = 1.0
# How long the main thread may take to react to a loss. It may be blocked in a library that never returns.
REACTION_SECONDS = 15.0


class LocalWorkers:
    """The workers 1 … `size` − 1 of a run, for rank 0.

    A thread watches them. If one ends early, the thread closes the store and aborts NCCL, so that an operation in
    which the main thread waits fails. If the main thread doesn't react even then, the thread ends this process. The
    same for SIGINT and SIGTERM: the main thread may wait for a worker that is stopped.

    Args:
        size: number of workers, this process included.
        target: what each of the others runs, a function of (rank, port of the store); it is pickled.
        on_abort: called with the error before a thread ends this process.
    """

    def __init__(
        self, size: int, target: Callable[[int, int], None], on_abort: Callable[[BaseException], None]
    ) -> None:
        self._store = LoopbackStore()
        self._size = size
        self._target = target
        self._on_abort = on_abort
        self._processes: dict[int, SpawnProcess] = {}
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watching workers", daemon=True)

    @contextlib.contextmanager
    def process_group(self) -> Iterator[None]:
        """Start the workers and form the process group with them; end them after the block.

        Raises:
            RunError: a worker ended early.
        """
        try:
            with heard_signals(self._on_abort, break_off=self._kill):
                self._start()
                use_loopback()
                with process_group(self._store.client, 0, self._size, self._check):
                    yield
            # Not `join`, which waits for what a worker has forked, too.
            wait_until(lambda: all(process.exitcode is not None for process in self._processes.values()), EXIT_SECONDS)
        except Exception as error:
            if self._has_lost_one() or is_lost_peer(error):
                raise self._loss() from None
            raise
        finally:
            self._end()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        # The workers inherit the mask: Ctrl-C reaches rank 0 alone. Starting the tracker would unblock the signal.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for rank in range(1, self._size):
                process = context.Process(target=_run_worker, args=(self._target, rank, self._store.port))
                process.start()
                self._processes[rank] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._watcher.start()

    def _check(self) -> None:
        if self._has_lost_one():
            raise self._loss()

    def _has_lost_one(self) -> bool:
        return any(process.exitcode for process in self._processes.values())

    def _loss(self) -> RunError:
        """Say which worker ended early, and how."""
        if not wait_until(self._crashes, EXIT_SECONDS):
            return RunError(f"The workers lost the connection to each other.\n{ADVICE}")
        rank, code = self._crashes()[0]
        if code == -signal.SIGTERM:
            time.sleep(SIGNAL_SECONDS)
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"failed (exit code {code})"
        return RunError(f"Worker {rank} of {self._size} {how}; the others were ended.\n{ADVICE}")

    def _crashes(self) -> list[tuple[int, int]]:
        """Return rank and exit code of each worker that failed itself, and not for the loss of another."""
        codes = ((rank, process.exitcode) for rank, process in self._processes.items())
        return [(rank, code) for rank, code in codes if code and code != PEER_LOST]

    def _kill(self) -> bool:
        for process in list(self._processes.values()):
            process.kill()
        return True

    def _end(self) -> None:
        self._is_over.set()
        self._kill()
        for process in self._processes.values():
            process.join()
        if self._watcher.is_alive():
            self._watcher.join()

    def _watch(self) -> None:
        while not self._has_lost_one():
            if self._is_over.wait(WATCH_SECONDS):
                return
        with silenced_stderr():
            self._store.close()
            abort_nccl()
            if self._is_over.wait(REACTION_SECONDS):
                return
        loss = self._loss()
        try:
            self._on_abort(loss)
        finally:
            print(loss, file=sys.stderr, flush=True)
            os._exit(1)  # the main thread can't be reached


def _run_worker(target: Callable[[int, int], None], rank: int, port: int) -> None:
    """Run `target` in a worker process, and end the process with it or with rank 0."""
    os.dup2(2, 1)  # what user code prints must not mix with rank 0's output
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code = 0
    try:
        target(rank, port)
    except Exception as error:
        code = PEER_LOST if is_lost_peer(error) else 1
        if code == 1:
            traceback.print_exc()
    exit_at_once(code)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os._exit(PEER_LOST)


def process_group_of_worker(port: int, rank: int, size: int) -> contextlib.AbstractContextManager[None]:
    """Join the process group that rank 0 of this machine forms; `port` is its store's."""
    import torch.distributed as dist

    use_loopback()
    return process_group(dist.TCPStore(HOST, port, is_master=False), rank, size)
