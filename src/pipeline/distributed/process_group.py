"""The process group of a run: how its processes meet and part, and how the loss of one is recognised."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch.distributed as dist

HOST = "127.0.0.1"
POLL_SECONDS = 0.05
# For processes that are known to be ready. Below torchrun's 30 s between SIGTERM and SIGKILL.
MEETING_SECONDS = 20.0
ADVICE = "Its own message, if any, stands above. A run with resume=auto continues from its last checkpoint."


class LoopbackStore:
    """A key-value store for processes of this machine, on a free `port` of loopback; torch's own listens everywhere.

    `client` is this process's connection to it.
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
        """Stop the server: a process that waits for a key gets an error."""
        self._server = None


def use_loopback() -> None:
    """Let gloo connect over loopback, unless the user chose an interface; its default is this machine's host name."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)


@contextlib.contextmanager
def process_group(
    store: "dist.Store", rank: int, size: int, check: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Form torch's process group through `store`, and destroy it at the end of the block.

    `check` is called repeatedly until all processes are ready; it raises if one has ended.
    """
    import torch
    import torch.distributed as dist

    # torch would wait inside its own code, where Python's signal handlers don't run. So all wait here first.
    store.set(f"ready {rank}", "")
    while not store.check([f"ready {other}" for other in range(size)]):
        check()
        time.sleep(POLL_SECONDS)
    # Tensors on the CPU are sent by gloo; gradients on GPUs by NCCL.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # Private part of torch, before 2.14. Without it, the processes wait half an hour for one that dies while they meet.
    set_timeout: Any = getattr(dist, "set_timeout", None) or getattr(dist.distributed_c10d, "_set_pg_timeout", None)
    usual = dist.default_pg_timeout
    limit = usual if set_timeout is None else timedelta(seconds=MEETING_SECONDS)
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
        # From here on, others may have to wait while one writes a checkpoint or measures something.
        if set_timeout is not None:
            set_timeout(usual)
        yield
    finally:
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):  # if another process is gone
                dist.destroy_process_group()
        else:
            # Groups are named by a counter, which must be the same in all processes of this one's next run. A group of
            # one that ends resets it.
            with contextlib.suppress(RuntimeError):  # the first error says what is wrong
                dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
                dist.destroy_process_group()


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Poll `condition` for `seconds` at most, and return whether it became true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def is_lost_peer(error: BaseException | None) -> bool:
    """Return whether `error` is what torch raises if another process is gone."""
    import torch.distributed as dist

    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    has_sign = isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    return has_sign or isinstance(error, dist.DistError)


def abort_nccl() -> bool:
    """Let NCCL's pending operations fail, if it is in use; gloo's do by themselves once a connection is closed."""
    import torch
    import torch.distributed as dist

    if not (torch.cuda.is_available() and dist.is_initialized()):
        return False
    with contextlib.suppress(Exception):  # whatever its state, the run has failed
        dist.group.WORLD.abort()  # type: ignore[union-attr]
    return True


@contextlib.contextmanager
def silenced_stderr() -> Iterator[None]:
    """Discard what is written to this process's stderr: torch's C++ code writes forty lines about a closed store."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
