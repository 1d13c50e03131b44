"""What runs could not tell MLflow before their processes ended."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.tracking.spool.background import reason_of
from pipeline.tracking.spool.folder import list_spools
from pipeline.tracking.spool.record import Spool
from pipeline.tracking.spool.uploader import Uploader
from pipeline.tracking.store import open_store
from pipeline.tracking.target import TrackingTarget


@dataclass
class UploadSummary:
    """What became of a folder of spools.

    Attributes:
        runs: ids of the runs whose records are in MLflow now.
        closed: how many of them had died, and were closed as lost.
        alive: runs whose own process is still at work.
        resumable: runs that are in MLflow, and whose last state is kept for the same command with resume=auto.
        elsewhere: records for another store than the one asked for.
        partial: (file, reason) of records all but some artifacts of which are in MLflow.
        kept: (file, reason) of those that could not be sent.
    """

    runs: list[str] = field(default_factory=list)
    closed: int = 0
    alive: int = 0
    resumable: int = 0
    elsewhere: int = 0
    partial: list[tuple[Path, str]] = field(default_factory=list)
    kept: list[tuple[Path, str]] = field(default_factory=list)


def upload_unsent(folder: Path, uri: str, override: bool = False, insist: bool = False) -> UploadSummary:
    """Send the records in `folder` whose processes are gone to the store at `uri`, and remove what was sent.

    A run whose record has no end died: it is closed as lost, for its process can't do it.

    Args:
        folder: where the spools lie.
        uri: the store; records that name another one stay.
        override: send all of them to `uri`, whatever they name.
        insist: try artifacts that could not be stored, however lately that was.
    """
    sent = UploadSummary()
    for path in list_spools(folder):
        spool = Spool.open(path)
        if spool is None:
            sent.alive += path.exists()
            continue
        try:
            if override or TrackingTarget(uri, "").is_of(spool.header["store"], folder):
                _send(spool, uri, insist, sent)
            else:
                sent.elsewhere += 1
        except Exception as error:
            sent.kept.append((path, reason_of(error)))
        finally:
            spool.release()
    return sent


def _send(spool: Spool, uri: str, insist: bool, sent: UploadSummary) -> None:
    if spool.is_resumable() and spool.is_sent():
        sent.resumable += 1
        return
    died = not spool.has_ended()
    delivery = Uploader(spool, functools.partial(open_store, uri), insist=insist)
    delivery.send()
    # A sweep may have closed it already.
    if died and delivery.is_running():
        spool.append_end("lost", "KILLED")
        delivery.send()
    assert delivery.run_id is not None
    sent.closed += died
    if delivery.aside:
        reason = delivery.aside.reason
        sent.partial.append((spool.path, "tried just now" if reason is None else reason_of(reason)))
        return
    sent.runs.append(delivery.run_id)
    if spool.is_resumable():
        sent.resumable += 1
    else:
        spool.remove()
