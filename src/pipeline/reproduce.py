"""`python -m pipeline.reproduce RUN_ID`: run a tracked run again from what it logged, and compare every metric.

Exit code 0 where all metrics are equal, 3 where they differ.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pipeline.command import printable, run_command
from pipeline.config import Config
from pipeline.errors import RequestError
from pipeline.recipe.statuses import CUT_SHORT
from pipeline.reproduction.environment_diff import change_of_data, changes_of_place
from pipeline.reproduction.metric_diff import NOT_COMPARED, MetricDifference, compare
from pipeline.reproduction.restore import configuration
from pipeline.tracking.target import DEFAULT_URI

if TYPE_CHECKING:
    from pipeline.tracking.logged import LoggedRun

# Relative difference that counts as none where machine or versions differ: their arithmetic rounds differently, and
# training amplifies it step by step.
TOLERANCE = 0.01
# Rows of the table of differences that are shown.
ROWS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare what the run rested on, run it again, compare its metrics; returns the exit code.

    Raises:
        RequestError: the run can't be read, isn't one, or asks for something that isn't trusted.
    """
    options = _parser().parse_args(arguments)
    uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_URI)
    if options.tolerance is not None and not options.tolerance >= 0:
        raise RequestError(f"--tolerance {options.tolerance}: it must be 0 or more.")

    from pipeline.tracking.logged import read_logged
    from pipeline.tracking.remote import no_local_artifacts

    logged = read_logged(uri, options.run_id, options.trust)
    config = configuration(logged, uri, options.trust)
    # What was logged is shown as it is: its brackets are no markup, and its colons no pictures.
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    is_same_place = _show_changes(console, logged, config, options.check)
    if options.check:
        return 0
    last = _last_evaluation(logged)
    # On the machine and with the versions of the run itself nothing is forgiven.
    tolerance = options.tolerance if options.tolerance is not None else 0.0 if is_same_place else TOLERANCE

    from pipeline.run.training import run_training

    with no_local_artifacts(uri, options.trust):
        finished = run_training(config, more_tags={"reproduces": logged.run_id}, last_evaluation=last)
    differences, count = compare(logged.history, finished.run.history, tolerance, only_logged=last is not None)
    metrics = len({*logged.history} - {NOT_COMPARED})
    how = "bit for bit" if tolerance == 0 else f"within {tolerance:.2%}"
    if not differences:
        console.print(f"Reproduced: all {count} value(s) of {metrics} metric(s) are equal {how}.")
        return 0
    _show_differences(console, differences)
    console.print(f"Not reproduced: {len(differences)} of {count} values differ, where they should be equal {how}.")
    return 3


def _last_evaluation(logged: "LoggedRun") -> int | None:
    """The evaluation that a run was cut short after; None where it went through.

    Raises:
        RequestError: it logged nothing to compare with.
    """
    if not logged.history:
        raise RequestError(f"{logged.run_id}: it logged no metric that could be compared.")
    if logged.status not in CUT_SHORT:
        return None
    last = max(logged.history.get("train/loss", {}), default=0)
    if last < 1:
        raise RequestError(f"{logged.run_id}: it ended ({logged.status}) before its first evaluation.")
    return last


def _show_changes(console: Console, logged: "LoggedRun", config: Config, check_only: bool) -> bool:
    """Print what is different now, as it is found; whether the same numbers to the last bit are to be expected."""
    console.print(printable(f"Run {logged.run_id} ({logged.status}), from its logged configuration."))
    is_same_place = True
    for change in changes_of_place(logged, config):
        console.print(printable(f"{change.what:9} {change.words}"))
        is_same_place = is_same_place and not change.rounds_differently
    data = change_of_data(logged, config, may_fetch=not check_only)
    console.print(printable(f"{data.what:9} {data.words}"))
    return is_same_place


def _show_differences(console: Console, differences: Sequence[MetricDifference]) -> None:
    table = Table("metric", "step", "logged", "now", "relative")
    for row in differences[:ROWS]:
        table.add_row(
            printable(row.metric), str(row.step), _number(row.logged), _number(row.found), f"{row.relative:.1e}"
        )
    console.print(table)
    if len(differences) > ROWS:
        console.print(f"… and {len(differences) - ROWS} more.")


def _number(value: float | None) -> str:
    return "–" if value is None else repr(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.reproduce", description=__doc__)
    parser.add_argument("run_id", help="MLflow's id of a run, or of a sweep's trial")
    parser.add_argument("--check", action="store_true", help="compare code, packages, machine and data; don't train")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="NAME",
        help="build this class or function, too; read and write a server's files in this folder of yours",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help=f"relative difference that counts as none (default: 0 here, {TOLERANCE} on another machine or version)",
    )
    parser.add_argument("--tracking-uri", help="MLflow's store (default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db)")
    return parser


if __name__ == "__main__":
    run_command(lambda: sys.exit(main()))
