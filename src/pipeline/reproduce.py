"""`python -m pipeline.reproduce RUN_ID`: run a tracked run again from what it logged, and compare every metric.

Exit code 0 where all metrics are equal, 3 where they differ.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pipeline.command import run_command
from pipeline.comparison import NOT_COMPARED, Difference, compare, package_changes
from pipeline.config import register
from pipeline.errors import RequestError
from pipeline.report import DEFAULT_URI
from pipeline.trust import check_trusted, parse_logged

if TYPE_CHECKING:
    from pipeline.tracking.logged import LoggedRun

# Relative difference that counts as none where machine or versions differ: their arithmetic rounds differently, and
# training amplifies it step by step.
TOLERANCE = 0.01
# Rows of the table of differences that are shown.
ROWS = 20
# Runs that ended before their budget did are compared as far as they came.
CUT_SHORT = ("pruned", "interrupted", "lost", "failed", "running")


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

    logged = read_logged(uri, options.run_id)
    config = configuration(logged, uri)
    check_trusted(config, options.trust)
    console = Console(highlight=False, soft_wrap=True)
    changed = provenance_changes(logged, config)
    _show_changes(console, logged, changed)
    if options.check:
        return 0
    if not logged.history:
        raise RequestError(f"{logged.run_id}: it logged no metric that could be compared.")

    from pipeline.train import carry_out

    last = max(logged.history.get("train/loss", {0: 0.0})) if logged.status in CUT_SHORT else None
    if last == 0:
        raise RequestError(f"{logged.run_id}: it ended ({logged.status}) before its first evaluation.")
    run, _, _ = carry_out(config, more_tags={"reproduces": logged.run_id}, last_evaluation=last)
    # On the machine and with the versions of the run itself nothing is forgiven.
    is_same_place = not any(what in changed for what in ("packages", "machine"))
    tolerance = options.tolerance if options.tolerance is not None else 0.0 if is_same_place else TOLERANCE
    differences, count = compare(logged.history, run.history, tolerance, only_logged=last is not None)
    metrics = len({*logged.history} - {NOT_COMPARED})
    how = "bit for bit" if tolerance == 0 else f"within {tolerance:.2%}"
    if not differences:
        console.print(f"Reproduced: all {count} value(s) of {metrics} metric(s) are equal {how}.")
        return 0
    _show_differences(console, differences)
    console.print(f"Not reproduced: {len(differences)} of {count} values differ, where they should be equal {how}.")
    return 3


# What runs computed in before there was a choice.
BEFORE_IT_WAS_LOGGED = {"precision": "fp32", "memory_format": "contiguous", "workers": 1, "compile": False}


def configuration(logged: "LoggedRun", uri: str) -> dict[str, Any]:
    """The logged configuration, to be run here: in this store, alone, with the threads and device that it used.

    Raises:
        RequestError: it isn't a configuration of this version of the project.
    """
    config = parse_logged(logged.config)
    try:
        own = {"uri": uri, "experiment": logged.experiment, "checkpoints": "none", "log_model": "none"}
        config["tracking"] = config["tracking"] | own
        config["sweep"] = {"name": "none", "parent": None}
        config["resume"] = None
        config["runtime"] = BEFORE_IT_WAS_LOGGED | config["runtime"]
        runtime = {key: logged.params.get(f"runtime.{key}", value) for key, value in config["runtime"].items()}
        runtime["threads"] = int(runtime["threads"]) if str(runtime["threads"]).isdigit() else runtime["threads"]
        config["runtime"] = runtime
        if config["batching"]["micro_batch"] == "auto" and "batching.micro_batch" in logged.params:
            used = logged.params["batching.micro_batch"]
            config["batching"]["micro_batch"] = None if used == "null" else int(used)
        if "root" in config["dataset"] and not os.path.isdir(config["dataset"]["root"]):
            config["dataset"]["root"] = os.environ.get("PIPELINE_DATA", "data")  # the folder is another machine's
        return _typed(config)
    except (KeyError, TypeError) as error:
        raise RequestError(
            f"{logged.run_id}: its configuration is not one of this version ({type(error).__name__}: {error})."
            "\nUse the version that made it: git checkout of the commit on its MLflow page."
        ) from None


def _typed(config: dict[str, Any]) -> dict[str, Any]:
    """Check keys and types against the schema."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from pipeline.config import Config, resolve

    register()
    try:
        return resolve(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(config)))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise KeyError(str(error).splitlines()[0]) from None


def provenance_changes(logged: "LoggedRun", config: dict[str, Any]) -> dict[str, str]:
    """What is different now, as (what, in words): code, packages, machine and data; nothing where all is the same."""
    from pipeline.tracking import provenance
    from pipeline.workload import prepare

    changes = {}
    commit, difference = provenance.git_state()
    if logged.commit != commit:
        changes["code"] = f"commit {logged.commit or 'unknown'} then, {commit or 'unknown'} now"
    elif logged.difference != difference:
        changes["code"] = f"the same commit {commit}, with other changes to it"
    if logged.packages:
        packages = package_changes(logged.packages, provenance.installed_packages())
        if packages:
            changes["packages"] = packages
    else:
        changes["packages"] = "unknown: the run logged none"
    then, now = json.loads(logged.machine or "{}"), provenance.machine()
    different = [key for key in sorted(then) if then[key] != now.get(key)]
    if different or not then:
        changes["machine"] = ", ".join(f"{key} {then[key]} → {now.get(key)}" for key in different) or "unknown"
    splits = prepare(config, one_of_many=False).splits
    if logged.dataset is not None and logged.dataset[1] != splits.digest:
        changes["data"] = f"{logged.dataset[0]} had digest {logged.dataset[1]}, and has {splits.digest} now"
    return changes


def _show_changes(console: Console, logged: "LoggedRun", changes: dict[str, str]) -> None:
    console.print(f"Run {logged.run_id} ({logged.status}), from its logged configuration.")
    for what in ("code", "packages", "machine", "data"):
        console.print(f"{what:9} {changes.get(what, 'the same')}")


def _show_differences(console: Console, differences: Sequence[Difference]) -> None:
    table = Table("metric", "step", "logged", "now", "relative")
    for row in differences[:ROWS]:
        table.add_row(row.metric, str(row.step), _number(row.logged), _number(row.found), f"{row.relative:.1e}")
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
        "--trust", action="append", default=[], metavar="NAME", help="build this class or function, too"
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
