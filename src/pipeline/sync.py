"""`python -m pipeline.sync`: send to MLflow what was recorded while it was away, and close runs that died.

The next run or sweep does the same by itself; this is for when there is none.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lr_study.masking import mask_passwords
from pipeline.command import run_command
from pipeline.errors import RequestError, RunError
from pipeline.tracking.spool.folder import list_spools
from pipeline.tracking.target import DEFAULT_URI, TrackingTarget


def main(arguments: Sequence[str] | None = None) -> None:
    """Send what lies in the spool, and say what became of it.

    Raises:
        RequestError: there is no such folder.
        RunError: something could not be sent; it is still there.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline.sync", description=__doc__)
    parser.add_argument(
        "--tracking-uri",
        help="the store (default: mlflow.db beside --spool; else $MLFLOW_TRACKING_URI; else mlruns/mlflow.db)",
    )
    parser.add_argument("--spool", type=Path, help="folder of the records (default: beside the store, in mlruns/spool)")
    parser.add_argument("--all", action="store_true", help="send what was recorded for another store to this one, too")
    options = parser.parse_args(arguments)
    uri = options.tracking_uri or _default_uri(options.spool)
    folder = options.spool or TrackingTarget(uri, "").spool
    if not folder.is_dir() and options.spool is not None:
        raise RequestError(f"--spool {folder}: no such folder.")
    if not list_spools(folder):
        print(f"{folder}: nothing is waiting.")
        return
    from pipeline.tracking.spool.recovery import upload_unsent

    sent = upload_unsent(folder, uri, override=options.all, insist=True)
    lost = f", and closed as lost where their process had died: {sent.closed}" if sent.closed else ""
    print(f"{len(sent.runs)} run(s) sent to {mask_passwords(uri)}{lost}.")
    if sent.alive:
        print(f"{sent.alive} run(s) are at work still, and send their own.")
    if sent.resumable:
        print(f"{sent.resumable} run(s) were cut off; the same command (resume=auto) goes on from {folder}.")
    if sent.elsewhere:
        print(f"{sent.elsewhere} record(s) are for another store: give its --tracking-uri, or --all to send them here.")
    if sent.kept:
        file, reason = sent.kept[0]
        raise RunError(f"{len(sent.kept)} run(s) could not be sent, and stay: {file.name} ({reason}).")
    if sent.partial:
        file, reason = sent.partial[0]
        raise RunError(f"Artifacts of {len(sent.partial)} run(s) can't be stored, and stay: {file.name} ({reason}).")


def _default_uri(spool: Path | None) -> str:
    """The store where none is named."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    beside = None if spool is None else spool.absolute().parent / "mlflow.db"
    # Records in a folder of one's choice are hardly for the database of the folder that one happens to stand in.
    if beside is not None and (beside.exists() or not named):
        return f"sqlite:///{beside}"
    return named or DEFAULT_URI


if __name__ == "__main__":
    run_command(main)
