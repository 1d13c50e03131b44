"""Packages, machine and command: what a run depends on besides its configuration and its source code."""

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

import psutil

from lr_study.masking import mask_passwords

log = logging.getLogger("pipeline.tracking")
CPUINFO = "/proc/cpuinfo"


def find_or(default: Any, what: str, find: Callable[[], Any]) -> Any:
    """Call `find`; if it raises, warn and return `default`, since missing information must not end a run."""
    try:
        return find()
    except Exception as error:
        log.warning("The run's %s can't be found and is left out (%s: %s).", what, type(error).__name__, error)
        return default


def installed_packages() -> str:
    """Return the installed distributions as a requirements file: sorted lines `name==version`."""
    # setuptools, once imported (as by torch's compiler), puts its own copies of other packages on the path.
    path = [entry for entry in sys.path if "_vendor" not in Path(entry).parts]
    listed = distributions(path=path)
    found = {f"{d.metadata['Name']}=={d.version}" for d in listed if d.metadata and d.metadata["Name"]}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def machine() -> dict[str, Any]:
    """Describe the machine and the Python interpreter."""
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Return the name of the processor's model, if the system knows it; else the architecture."""
    described = _cpuinfo()
    if (name := described.get("model name") or described.get("cpu")) is not None:
        return name
    if "CPU part" in described:  # ARM processors have numbers
        return f"{platform.machine()} implementer {described.get('CPU implementer')} part {described['CPU part']}"
    if sys.platform == "darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=10)
        if done.stdout.strip():
            return done.stdout.strip()
    return platform.processor() or platform.machine()


def _cpuinfo() -> dict[str, str]:
    """Read what Linux says of the first processor; on large machines, to read about all takes seconds."""
    try:
        with open(CPUINFO, encoding="utf-8", errors="replace") as file:
            lines = list(itertools.takewhile(str.strip, file))
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}


def command_line() -> str:
    """Return the command as Python knows it, quoted for a shell and with its passwords masked."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    start = ["python", "-m", spec.name] if spec is not None else ["python", *sys.argv[:1]]
    words = shlex.join(mask_passwords(word) for word in [*start, *sys.argv[1:]])
    # An argument may hold any bytes, but MLflow takes UTF-8 only.
    return words.encode("utf-8", errors="replace").decode()
