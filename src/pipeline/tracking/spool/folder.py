"""The spools in a folder, seen from outside: their headers and their order, also while other processes hold them."""

import json
from pathlib import Path

from pipeline.tracking.spool.spool import Record


def read_header(path: Path) -> Record:
    """Read the first record of the spool at `path`; empty if there is none, or not yet."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def list_spools(folder: Path) -> list[Path]:
    """List the spools in `folder`: sweeps before their trials, and then the oldest first."""

    def order(path: Path) -> tuple[bool, float]:
        # The header says when the run began. The file's own times are of its last line, or of a copy.
        header = read_header(path)
        began = header.get("time")
        return "sweep" in header or "parent" in header, began if isinstance(began, int | float) else 0

    return sorted(folder.glob("*.jsonl"), key=order)
