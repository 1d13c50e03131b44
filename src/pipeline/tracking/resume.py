"""Finding a run that didn't get to its end and can be gone on with."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.tracking.location import Place
from pipeline.tracking.spool import RESUMED_FROM, Spool
from pipeline.tracking.spools import spools

State = TypeVar("State")


def claim(place: Place, config_digest: str, load: Callable[[Path], State | None]) -> tuple[Spool, State] | None:
    """The newest run of the same configuration that died or was cut off: its record, now ours, and its last state.

    None where there is none, or none of them left a checkpoint that `load` can read.
    """
    for path in reversed(spools(place.spool)):
        spool = Spool.open(path)
        if spool is None:
            continue
        header = spool.header
        is_same = header["tags"].get("config_digest") == config_digest and header["store"] == place.label
        if is_same and (spool.is_resumable() or not spool.has_ended()):
            state = load(spool.files / RESUMED_FROM)
            if state is not None:
                if spool.has_ended():
                    spool.reopen()
                return spool, state
        spool.release()
    return None
