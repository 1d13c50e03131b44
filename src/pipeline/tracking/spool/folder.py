"""A folder of spools, seen from outside: their headers and their order, whoever holds them."""

import json
from pathlib import Path

from pipeline.tracking.spool.record import Record


def first_record(path: Path) -> Record:
    """The header of the spool at `path`, also while another process holds it; empty where there is none yet."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return {}  # begun, or sent and removed, just now
    return header if isinstance(header, dict) else {}


def list_spools(folder: Path) -> list[Path]:
    """The spools in `folder`, oldest first, but those of sweeps before those of their trials.

    By when each says that its run began, for a file's own times are of its last line, or of a copy.
    """

    def target(path: Path) -> tuple[bool, float]:
        header = first_record(path)
        began = header.get("time")
        return "sweep" in header or "parent" in header, began if isinstance(began, int | float) else 0

    return sorted(folder.glob("*.jsonl"), key=target)
