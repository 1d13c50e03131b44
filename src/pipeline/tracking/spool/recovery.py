"""Send the spools of processes that ended before MLflow had all of it."""

from dataclasses import dataclass, field
from pathlib import Path

from lr_study.errors import reason_of
from pipeline.tracking.spool.progress import Progress
from pipeline.tracking.spool.spool import Spool, list_spools
from pipeline.tracking.spool.uploader import Uploader
from pipeline.tracking.target import TrackingTarget


@dataclass
class UploadSummary:
    """What became of a folder of spools.

    Attributes:
        runs: ids of the runs whose spools are in MLflow now.
        closed: how many of them had died, and were closed as lost.
        alive: number of spools that other processes hold.
        resumable: number of runs that are in MLflow, and whose spools are kept for resume=auto.
        other_store: number of spools for another store than the given one.
        partial: (file, reason) of spools that are in MLflow except for some artifacts.
        failed: (file, reason) of spools that could not be sent.
    """

    runs: list[str] = field(default_factory=list)
    closed: int = 0
    alive: int = 0
    resumable: int = 0
    other_store: int = 0
    partial: list[tuple[Path, str]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


def upload_unsent(folder: Path, uri: str, override: bool = False, retry_now: bool = False) -> UploadSummary:
    """Send the spools in `folder` whose processes are gone, and remove what was sent.

    A spool without an end is of a run that died: the run is closed as lost. Spools that name another store than `uri`
    stay, unless `override` is set. `retry_now` tries deferred artifacts, however short ago the last attempt was.
    """
    summary = UploadSummary()
    for path in list_spools(folder):
        spool = Spool.open(path)
        if spool is None:
            summary.alive += path.exists()
            continue
        try:
            if override or TrackingTarget(uri, "").matches(spool.header["store"], folder):
                _send(spool, uri, retry_now, summary)
            else:
                summary.other_store += 1
        except Exception as error:  # the other spools are sent all the same
            summary.failed.append((path, reason_of(error)))
        finally:
            spool.release()
    return summary


def _send(spool: Spool, uri: str, retry_now: bool, summary: UploadSummary) -> None:
    if spool.is_resumable() and Progress.load(spool).is_complete(spool):
        summary.resumable += 1
        return
    died = spool.ending() is None
    uploader = Uploader(spool, uri, retry_now=retry_now)
    uploader.send()
    # A sweep may have closed it already.
    if died and uploader.is_running():
        spool.append_end("lost", "KILLED")
        uploader.send()
    summary.closed += died
    if uploader.deferred:
        error = uploader.artifact_error
        summary.partial.append((spool.path, "tried just now" if error is None else reason_of(error)))
        return
    assert uploader.run_id is not None
    summary.runs.append(uploader.run_id)
    if spool.is_resumable():
        summary.resumable += 1
    else:
        spool.remove()
