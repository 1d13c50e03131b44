"""`python -m pipeline.sync`: send what runs recorded while MLflow was away, and close runs that died.

The next run or sweep in the same folder does so too; this is for when there is none.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lr_study.errors import reason_of
from lr_study.masking import mask_passwords
from pipeline.command import run_command
from pipeline.errors import RequestError, RunError
from pipeline.tracking.faults import lasting_fault
from pipeline.tracking.spool.spool import list_spools
from pipeline.tracking.target import DEFAULT_URI, TrackingTarget, sqlite_uri


def main(arguments: Sequence[str] | None = None) -> None:
    """Send the spools in a folder, and print what became of them; raise RunError if one could not be sent."""
    options = _parser().parse_args(arguments)
    uri = options.tracking_uri or _default_uri(options.spool)
    folder = options.spool or TrackingTarget(uri, "").spool
    if options.spool is not None and not folder.is_dir():
        raise RequestError(f"--spool {folder}: no such folder.")
    if not list_spools(folder):
        print(f"{folder}: nothing is waiting.")
        return
    from pipeline.tracking.spool.recovery import upload_unsent

    sent = upload_unsent(folder, uri, override=options.all, retry_now=True)
    lost = f", and closed as lost because their process had died: {sent.closed}" if sent.closed else ""
    print(f"{len(sent.runs)} run(s) sent to {mask_passwords(uri)}{lost}.")
    if sent.alive:
        print(f"{sent.alive} run(s) are still at work, and send their own records.")
    if sent.resumable:
        print(
            f"{sent.resumable} run(s) crashed and can be resumed: run the same command (resume=auto) beside {folder}."
        )
    if sent.other_store:
        print(
            f"{sent.other_store} record(s) are for another store: give its --tracking-uri, or --all to send them here."
        )
    if sent.failed:
        file, error = sent.failed[0]
        what = f"{len(sent.failed)} run(s) could not be sent, and are kept: {file.name}"
        if (fault := lasting_fault(error, uri)) is not None:
            raise RequestError(f"{what}.\n{fault}")
        raise RunError(f"{what} ({reason_of(error)}).")
    if sent.partial:
        file, reason = sent.partial[0]
        raise RunError(
            f"Artifacts of {len(sent.partial)} run(s) can't be stored, and are kept: {file.name} ({reason})."
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.sync", description=__doc__)
    parser.add_argument(
        "--tracking-uri",
        help="the store (default: mlflow.db beside --spool; else $MLFLOW_TRACKING_URI; else mlruns/mlflow.db)",
    )
    parser.add_argument("--spool", type=Path, help="folder of the records (default: beside the store, in mlruns/spool)")
    parser.add_argument("--all", action="store_true", help="send what was recorded for another store to this one, too")
    return parser


def _default_uri(spool: Path | None) -> str:
    """The store if none is given: the database beside `spool`, or as for every command."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    beside = None if spool is None else spool.absolute().parent / "mlflow.db"
    # A folder that was named is probably not for the database of the working directory.
    if beside is not None and (beside.exists() or not named):
        return sqlite_uri(beside)
    return named or DEFAULT_URI


if __name__ == "__main__":
    run_command(main)
