"""Run a command and measure it from outside: seconds, and the peak memory of it and all its descendants."""

import contextlib
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import outputs


@dataclass(frozen=True)
class Measured:
    """A finished command: `peak_pss` is the largest sum of proportional set sizes, in bytes."""

    returncode: int
    output: str
    seconds: float
    peak_pss: int


def measure(command: Sequence[str], folder: Path, every: float = 0.5) -> Measured:
    """Run `command` in `folder`, sampling memory `every` so many seconds."""
    log = folder / "output.log"
    started, peak = time.monotonic(), 0
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, sum(pss(pid) for pid in descendants(process.pid)))
            time.sleep(every)
    outputs.check(log.read_text(encoding="utf-8"), folder=folder)
    return Measured(process.returncode, log.read_text(), time.monotonic() - started, peak)


def descendants(root: int) -> set[int]:
    """`root` and every process below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # a process may end while it is read
            after_name = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(after_name[1]), []).append(int(stat.parent.name))
    found, waiting = set(), [root]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += children.get(pid, [])
    return found


def pss(pid: int) -> int:
    """Proportional set size in bytes: shared pages are divided among those who share them."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
