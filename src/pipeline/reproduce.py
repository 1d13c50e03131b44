"""`python -m pipeline.reproduce RUN_ID`: run a tracked run again from what it logged, and compare every metric.

Exit code 0 where all metrics are equal, 3 where they differ.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pipeline.analysis.replicate_table import ReplicateRow, read_replicates
from pipeline.command import printable, run_command
from pipeline.config import Config
from pipeline.errors import RequestError
from pipeline.recipe.statuses import CUT_SHORT
from pipeline.reproduction.environment_diff import diff_data, diff_environment
from pipeline.reproduction.metric_diff import (
    NOT_COMPARED,
    MetricDifference,
    diff_metrics,
    histories_of,
    history_of,
)
from pipeline.reproduction.restore import restore_config
from pipeline.tracking.check import check_target
from pipeline.tracking.target import DEFAULT_URI, TrackingTarget

if TYPE_CHECKING:
    from pipeline.tracking.logged import LoggedRun

# Relative difference that counts as none where machine or versions differ: they round differently, and training
# amplifies that step by step.
TOLERANCE = 0.01
MAX_ROWS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare what the run depended on, run it again, compare its metrics; returns the exit code."""
    options = _parser().parse_args(arguments)
    uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_URI)
    if options.tolerance is not None and not options.tolerance >= 0:
        raise RequestError(f"--tolerance {options.tolerance}: it must be 0 or more.")

    from pipeline.tracking.logged import read_logged
    from pipeline.tracking.remote import no_local_artifacts

    logged = read_logged(uri, options.run_id, options.trust)
    config = restore_config(logged, uri, options.trust)
    rows = _replicates(logged)
    if options.replicate is not None:
        config = _alone(config, options.replicate)
    # Logged text is printed as it is: brackets are no markup, and colons no emoji.
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    rounds_alike = _print_environment(console, logged, config, options.check)
    if options.check:
        return 0
    last = _last_evaluation(logged)
    # On the run's own machine and versions the numbers must be equal bit for bit; a stack rounds as a whole.
    rounds_alike = rounds_alike and options.replicate is None
    tolerance = options.tolerance if options.tolerance is not None else 0.0 if rounds_alike else TOLERANCE

    check_target(TrackingTarget(uri, logged.experiment))
    from pipeline.run.training import run_training

    with no_local_artifacts(uri, options.trust):
        run, _, results = run_training(config, more_tags={"reproduces": logged.run_id}, last_evaluation=last)
    before, now = logged.history, run.history
    if options.replicate is not None:
        before = history_of(row for row in rows if row.seed == options.replicate)
    elif rows:
        before, now = before | histories_of(rows), now | histories_of(results.rows())
    only_logged = last is not None or options.replicate is not None
    differences, count = diff_metrics(before, now, tolerance, only_logged)
    metrics = len({*before} - {NOT_COMPARED})
    how = "bit for bit" if tolerance == 0 else f"within {tolerance:.2%}"
    if not differences:
        console.print(f"Reproduced: all {count} value(s) of {metrics} metric(s) are equal {how}.")
        return 0
    _print_differences(console, differences)
    console.print(f"Not reproduced: {len(differences)} of {count} values differ, where they should be equal {how}.")
    return 3


def _replicates(logged: "LoggedRun") -> list[ReplicateRow]:
    """The rows of the run's replicates; none where it has one."""
    try:
        return read_replicates(logged.replicates) if logged.replicates else []
    except ValueError as error:
        raise RequestError(f"{logged.run_id}: {error}, so it was edited.") from None


def _alone(config: Config, seed: int) -> Config:
    """The configuration of one of the run's replicates."""
    if seed not in config.seeds:
        raise RequestError(f"--replicate {seed}: the run trained seed={config.seed}.\nName one of these.")
    return replace(config, seed=seed)


def _last_evaluation(logged: "LoggedRun") -> int | None:
    """The evaluation after which the run was cut short; None where it trained to its budget's end."""
    if not logged.history:
        raise RequestError(f"{logged.run_id}: it logged no metric that could be compared.")
    if logged.status not in CUT_SHORT:
        return None
    last = max(logged.history.get("train/loss", {}), default=0)
    if last < 1:
        raise RequestError(f"{logged.run_id}: it ended ({logged.status}) before its first evaluation.")
    return last


def _print_environment(console: Console, logged: "LoggedRun", config: Config, check_only: bool) -> bool:
    """Print what differs now, line by line; returns whether the same numbers to the last bit are to be expected."""
    console.print(printable(f"Run {logged.run_id} ({logged.status}), from its logged configuration."))
    rounds_alike = True
    for difference in diff_environment(logged, config):
        console.print(printable(f"{difference.subject:9} {difference.description}"))
        rounds_alike = rounds_alike and not difference.changes_rounding
    data = diff_data(logged, config, may_fetch=not check_only)
    console.print(printable(f"{data.subject:9} {data.description}"))
    return rounds_alike


def _print_differences(console: Console, differences: Sequence[MetricDifference]) -> None:
    table = Table("metric", "step", "logged", "now", "relative")
    for row in differences[:MAX_ROWS]:
        values = ("–" if value is None else repr(value) for value in (row.logged, row.found))
        table.add_row(printable(row.metric), str(row.step), *values, f"{row.relative:.1e}")
    console.print(table)
    if len(differences) > MAX_ROWS:
        console.print(f"… and {len(differences) - MAX_ROWS} more.")


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
    parser.add_argument(
        "--replicate",
        type=int,
        metavar="SEED",
        help="run this one of the run's replicates by itself, and compare it with what it was among the others",
    )
    parser.add_argument("--tracking-uri", help="MLflow's store (default: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db)")
    return parser


if __name__ == "__main__":
    run_command(lambda: sys.exit(main()))
