"""What a run depended on besides its configuration and its source: packages, machine, command."""

import itertools
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from lr_study.masking import mask_passwords

log = logging.getLogger("pipeline.tracking")
CPUINFO = "/proc/cpuinfo"


def found_or(otherwise: Any, what: str, find: Callable[[], Any]) -> Any:
    """What `find` finds, or `otherwise`, with a warning: a machine that can't tell of itself must not cost a run."""
    try:
        return find()
    except Exception as error:
        log.warning("The run's %s can't be told, and is left out (%s: %s).", what, type(error).__name__, error)
        return otherwise


def installed_packages() -> str:
    """The installed distributions as lines `name==version`, sorted: a requirements file."""
    # setuptools puts the copies that it carries on the path once something imports it, as torch's compiler does.
    path = [entry for entry in sys.path if "_vendor" not in Path(entry).parts]
    listed = distributions(path=path)
    found = {f"{d.metadata['Name']}=={d.version}" for d in listed if d.metadata and d.metadata["Name"]}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def machine() -> dict[str, Any]:
    """The machine and the interpreter."""
    # Absent where the system doesn't tell, as on Windows.
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "memory_gib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**30) if pages > 0 else None,
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """The processor by its maker's name for it, as far as the system tells."""
    described = _cpuinfo()
    if (name := described.get("model name") or described.get("cpu")) is not None:
        return name
    if "CPU part" in described:  # ARM has numbers
        return f"{platform.machine()} implementer {described.get('CPU implementer')} part {described['CPU part']}"
    if sys.platform == "darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=10)
        if done.stdout.strip():
            return done.stdout.strip()
    return platform.processor() or platform.machine()


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor; to ask for all of many takes seconds."""
    try:
        with open(CPUINFO, errors="replace") as file:
            lines = list(itertools.takewhile(str.strip, file))
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}


def command_line() -> str:
    """The command as it was typed, as far as Python can tell, quoted for a shell and without the passwords in it."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    start = ["python", "-m", spec.name] if spec is not None else ["python", *sys.argv[:1]]
    words = shlex.join(mask_passwords(word) for word in [*start, *sys.argv[1:]])
    # An argument may be any bytes, and MLflow takes UTF-8.
    return words.encode("utf-8", errors="replace").decode()
