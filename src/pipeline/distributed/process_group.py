"""How the processes of one run meet, and how they part: around torch's process group.

torch waits in its own code while processes meet, where neither a signal nor a check reaches it. So that is done in a
thread of its own, and the main thread stays free to notice what went wrong meanwhile.
"""

import concurrent.futures
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch.distributed as dist

HOST = "127.0.0.1"
POLL_SECONDS = 0.05
# For processes that are known to be there.
MEETING_SECONDS = 60.0
# A thread that is left to wait would wake up while Python is taken down, and end the process with SIGABRT.
GIVEN_UP_SECONDS = 5.0
ADVICE = "Its own words, if any, stand above. A run with resume=auto goes on from its last checkpoint."


class LoopbackStore:
    """A store for the processes of this machine, on a free port of loopback: torch's own listens on every address.

    Attributes:
        port: where it listens.
        client: this process's way in.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        with socket.create_server((HOST, 0)) as listener:
            self.port: int = listener.getsockname()[1]
            self._server: dist.TCPStore | None = dist.TCPStore(
                HOST, self.port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
            )
        self.client = dist.TCPStore(HOST, self.port, is_master=False)

    def close(self) -> None:
        """End it, and with it whatever waits for it."""
        self._server = None


def use_loopback() -> None:
    """Have gloo talk over loopback, where it would look up this machine's name; what the user set stays."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)


@contextlib.contextmanager
def group(
    store: "dist.Store",
    rank: int,
    count: int,
    check: Callable[[], None] = lambda: None,
    give_up: Callable[[], None] = lambda: None,
    patience: float = MEETING_SECONDS,
) -> Iterator[None]:
    """torch's process group, as long as the block lasts.

    Args:
        store: where the processes find each other.
        rank, count: this process's place.
        check: called again and again until all have met; it raises where one is gone.
        give_up: called where they haven't met, to end the waiting.
        patience: seconds until they must have.
    """
    import torch.distributed as dist

    met = _meet(store, rank, count, patience)
    try:
        while not met.done():
            check()
            concurrent.futures.wait([met], timeout=POLL_SECONDS)
        met.result()
        yield
    finally:
        if not met.done():
            with _silence():
                give_up()
                concurrent.futures.wait([met], timeout=GIVEN_UP_SECONDS)
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):  # a peer that is gone can't say good-bye
                dist.destroy_process_group()
        else:
            # Groups are named by a count, which must be the same in all processes of this one's next run.
            with contextlib.suppress(AttributeError):
                dist.distributed_c10d._world.group_count = 0


def _meet(store: "dist.Store", rank: int, count: int, patience: float) -> "concurrent.futures.Future[None]":
    """Make the process group in a thread; what is returned is done when it is."""
    import torch
    import torch.distributed as dist

    met: concurrent.futures.Future[None] = concurrent.futures.Future()

    def meet() -> None:
        # What is said about tensors on the CPU goes by gloo; gradients on GPUs by NCCL.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=count, timeout=timedelta(seconds=patience)
            )
            _set_timeout(dist.default_pg_timeout)
        except Exception as error:
            met.set_exception(error)
        else:
            met.set_result(None)

    threading.Thread(target=meet, name="meeting workers", daemon=True).start()
    return met


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without this process's stderr: torch's own code writes forty lines there about what is said in two."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _set_timeout(timeout: timedelta) -> None:
    """Once they have met, the others may be waited for while one writes a checkpoint or measures something."""
    import torch.distributed as dist

    # torch 2.14 has it under its public name.
    set_timeout: Any = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(timeout)


def is_lost_peer(error: BaseException | None) -> bool:
    """Whether `error` is what torch raises where another process is gone."""
    import torch.distributed as dist

    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def free_what_waits() -> None:
    """Have NCCL give up; gloo does by itself, where a connection is closed."""
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available() and dist.is_initialized():
        with contextlib.suppress(Exception):  # whatever its state is, the run has failed
            dist.group.WORLD.abort()  # type: ignore[union-attr]
