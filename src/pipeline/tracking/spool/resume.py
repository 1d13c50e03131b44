"""Finding a run that didn't get to its end and can be gone on with."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.tracking.spool.folder import first_record, list_spools
from pipeline.tracking.spool.record import RESUMED_FROM, Spool
from pipeline.tracking.target import TrackingTarget

log = logging.getLogger("pipeline.tracking")
State = TypeVar("State")
# Another run, or `sync`, may be sending what the dead run left: so long, in seconds, it is given to get done.
SENDING_SECONDS = 30.0


def claim(
    target: TrackingTarget, config_digest: str, load: Callable[[Path], State | None]
) -> tuple[Spool, State] | None:
    """The newest run of the same configuration that died or was cut off: its record, now ours, and its last state.

    None where there is none, or none of them left a checkpoint that `load` can read.
    """
    for path in reversed(list_spools(target.spool)):
        header = first_record(path)
        is_same = header.get("tags", {}).get("config_digest") == config_digest
        if not is_same or not target.is_of(header["store"], path.parent):
            continue
        spool = _take(path)
        if spool is None:
            continue
        if spool.is_resumable() or not spool.has_ended():
            state = load(spool.files / RESUMED_FROM)
            if state is not None:
                if spool.has_ended():
                    spool.reopen()
                return spool, state
        spool.release()
    return None


def _take(path: Path) -> Spool | None:
    """The spool at `path`, waited for where another process is sending it; None where it is gone, or stays held."""
    if (spool := Spool.open(path)) is not None or not path.exists():
        return spool
    log.info("A run of this request is held by another process: waiting up to %.0f s for it.", SENDING_SECONDS)
    if (spool := Spool.open(path, SENDING_SECONDS)) is None and path.exists():
        log.warning("It is held still, by a run that is at work or by sync: it is not gone on with (%s).", path)
    return spool
