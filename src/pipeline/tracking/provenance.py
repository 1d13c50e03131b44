"""What a run depended on besides its configuration: packages, machine, source."""

import os
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pipeline.tracking.location import without_passwords


def installed_packages() -> str:
    """The installed distributions as lines `name==version`, sorted: a requirements file."""
    found = {f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def machine() -> dict[str, Any]:
    """The machine and the interpreter."""
    # Absent where the system doesn't tell, as on Windows.
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**30) if pages > 0 else None,
        "python": platform.python_version(),
    }


def git_state() -> tuple[str | None, str]:
    """(commit, difference of the tracked files against it) of the working directory's repository.

    Outside one it is this package's own; (None, "") where neither is a repository.
    """
    for folder in (Path.cwd(), Path(__file__).parent):
        commit = _git(folder, "rev-parse", "HEAD")
        if commit is not None:
            return commit.strip(), _git(folder, "diff", "HEAD") or ""
    return None, ""


def command_line() -> str:
    """The command as it was typed, as far as Python can tell, without the passwords in it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    start = ["python", "-m", spec.name] if spec is not None else ["python", sys.argv[0]]
    return " ".join(without_passwords(word) for word in [*start, *sys.argv[1:]])


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
