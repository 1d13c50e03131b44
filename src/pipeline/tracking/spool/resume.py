"""Find a crashed run that the same command resumes."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.tracking.spool.spool import RESUMED_FROM, Spool, list_spools, read_header
from pipeline.tracking.target import TrackingTarget

log = logging.getLogger("pipeline.tracking")
State = TypeVar("State")
# Seconds to wait for another run, or `sync`, that is sending the crashed run's spool.
SENDING_SECONDS = 30.0


def claim_resumable(
    target: TrackingTarget, config_digest: str, load: Callable[[Path], State | None]
) -> tuple[Spool, State] | None:
    """Find the newest run of the same configuration that died, failed or was interrupted, and take its spool.

    `load` reads a checkpoint, and returns None if it can't be read.

    Returns:
        The spool, held by this process, and the state in its last checkpoint; None if there is no such run.
    """
    for path in reversed(list_spools(target.spool)):
        header = read_header(path)
        is_same = header.get("tags", {}).get("config_digest") == config_digest
        if not is_same or not target.matches(header["store"], path.parent):
            continue
        spool = _open(path)
        if spool is None:
            continue
        has_ended = spool.ending() is not None
        if not has_ended or spool.is_resumable():
            state = load(spool.files / RESUMED_FROM)
            if state is not None:
                if has_ended:
                    spool.append({"reopened": True})
                return spool, state
        spool.release()
    return None


def _open(path: Path) -> Spool | None:
    """Open the spool at `path`, if need be after a wait; None if it is gone, or another process keeps it."""
    if (spool := Spool.open(path)) is not None or not path.exists():
        return spool
    log.info("Another process uses the record of an earlier run: waiting up to %.0f s for it.", SENDING_SECONDS)
    if (spool := Spool.open(path, SENDING_SECONDS)) is None and path.exists():
        log.warning(
            "That run is still training, or sync is still sending it: it is not resumed, a new run starts (%s).", path
        )
    return spool
