"""Processes: how this one is named in the storage, whether another is alive, and how many cores there are."""

import contextlib
import functools
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lr_study.masking import mask_tree

# A process of another machine is taken for dead after so many seconds without a sign of life.
DEAD_SECONDS = 60.0


def available_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command_line(interpreter: str = "python") -> str:
    """The command that started this process, without passwords."""
    return shlex.join(mask_tree([interpreter, *sys.orig_argv[1:]]))


@functools.cache
def machine() -> str:
    """An id shared by all processes that can see each other: host, boot and process namespace."""
    boot = _read("/proc/sys/kernel/random/boot_id").strip()
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {boot} {namespace}".strip()


def this_process() -> dict[str, Any]:
    """Describe this process as plain data, with the time as a sign of life."""
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": os.getpid(),
        "started": _start_ticks(os.getpid()),
        "time": time.time(),
    }


def is_this_process(process: Mapping[str, Any]) -> bool:
    """Whether `process`, as `this_process` returned it, is the calling process."""
    return (process["machine"], process["pid"]) == (machine(), os.getpid())


def is_alive(process: Mapping[str, Any], visible_only: bool = False) -> bool:
    """Whether a process is alive: looked up on this machine, judged by its last sign of life elsewhere.

    Args:
        process: from `this_process`.
        visible_only: return False for every process of another machine. After a power cut this machine has another
            name; without this, the processes that it killed would seem alive for a minute.
    """
    if process["machine"] == machine() and process["started"]:
        return _start_ticks(process["pid"]) == process["started"]
    return not visible_only and abs(time.time() - process["time"]) < DEAD_SECONDS


@contextlib.contextmanager
def repeating(sign_of_life: Callable[[], None], seconds: float, name: str) -> Iterator[None]:
    """Call a function every so many seconds, in a thread, until the block is left; its errors are ignored."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            # The storage may be away for a moment, or a driver may have closed the trial.
            with contextlib.suppress(Exception):
                sign_of_life()

    thread = threading.Thread(target=repeat, daemon=True, name=name)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(seconds)


def _start_ticks(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where there is no such process, or no /proc.

    A process id alone is not enough: the system reuses it.
    """
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    # A zombie has ended, and its parent hasn't noticed yet.
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
