"""Send the spools of processes that ended before MLflow had all of it."""

from dataclasses import dataclass, field
from pathlib import Path

from lr_study.errors import reason_of
from pipeline.tracking.spool.progress import Progress
from pipeline.tracking.spool.spool import Spool, list_spools, read_header
from pipeline.tracking.spool.uploader import Uploader
from pipeline.tracking.target import TrackingTarget


@dataclass
class UploadSummary:
    """What became of a folder of spools: ids of runs, numbers of spools, or (file, reason or error)."""

    runs: list[str] = field(default_factory=list)  # whose spools are in MLflow now
    closed: int = 0  # of these, had died and were closed as lost
    alive: int = 0  # held by other processes
    resumable: int = 0  # in MLflow, but kept for resume=auto
    other_store: int = 0  # for another store than the given one
    partial: list[tuple[Path, str]] = field(default_factory=list)  # in MLflow except for some artifacts
    failed: list[tuple[Path, Exception]] = field(default_factory=list)  # could not be sent


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
            if "store" not in read_header(path):
                raise ValueError("it is no record of a run; move it away")
            if override or TrackingTarget(uri, "").matches(spool.header["store"], folder):
                _send(spool, uri, retry_now, summary)
            else:
                summary.other_store += 1
        except Exception as error:  # the other spools are sent all the same
            summary.failed.append((path, error))
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
