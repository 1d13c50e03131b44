"""What no command may print, whatever it does: an unhandled error, a library's warning, a line that nobody reads."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# By the name under which a test allows it.
FAULTS = {
    # `Exception ignored in` is what Python prints of errors in finalizers, and it prints no `Traceback` for all of them.
    "traceback": re.compile(r"Traceback \(most recent call last\)|Exception in thread|Exception ignored in"),
    # Of Python's `warnings`, of MLflow's log and of torch's C++ code.
    "warning": re.compile(r"\w+Warning: |^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d WARNING |^\[W\d+ ", re.MULTILINE),
    "long line": re.compile(r"^[^\n]{201,}$", re.MULTILINE),
}


def check(*texts: str, allow: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
    """Fail where a command's output holds a fault that the test doesn't name.

    Args:
        texts: its stdout and stderr.
        allow: names of faults, each with the reason why this command may print it.
        folder: where the command ran; its path and that above it don't count towards a line's length.
    """
    unknown = set(allow or ()) - set(FAULTS)
    assert not unknown, f"no such fault: {unknown}"
    for text in texts:
        shown = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours
        if folder is not None:
            shown = shown.replace(str(folder), ".").replace(str(folder.parent), "..")
        for name, pattern in FAULTS.items():
            if name not in (allow or ()):
                found = pattern.search(shown)
                assert found is None, f"{name}: {found.group()[:300]}\n{text}"


class CheckedPython(subprocess.Popen[str]):
    """`python *arguments` as a process in `folder`, whose `communicate` checks what it printed; see `check`."""

    def __init__(self, *arguments: str, folder: Path, allow: Mapping[str, str] | None = None, **options: Any) -> None:
        self._folder, self._allow = folder, allow
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
        super().__init__([sys.executable, *arguments], cwd=folder, **streams | options)

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """Read both streams to their end, wait, and check."""
        said = super().communicate(input, timeout)
        check(*(text for text in said if text is not None), allow=self._allow, folder=self._folder)
        return said
