"""The answer to a sweep that MLflow holds: its runs, analysed by workload."""

import json
from collections.abc import Mapping

from pipeline.analysis.runs import Run, by_workload, mark_stalled
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.results import STEPS_TO_TARGET, Answer
from pipeline.analysis.stats.settings import AnalysisSettings, Margin
from pipeline.config.checks import parse_margin
from pipeline.tracking.store import Store
from pipeline.tracking.sweep import read_runs


def answer_sweep(
    store: Store, sweep: str, margin: Margin | None = None, base_batch: int | None = None
) -> dict[str, tuple[Answer, list[Run]]]:
    """Analyse a sweep, finished or not, with another margin or base batch than its own if they are given.

    Returns:
        For each workload (`optimizer=adamw`, where such a choice was swept; else one, named ``) its answer and runs.

    Raises:
        RequestError: there is no such sweep, or none of its runs has ended.
    """
    return {
        name: (analyse(runs, settings_of(params, margin, base_batch)), runs)
        for name, (runs, params) in runs_by_workload(store, sweep).items()
    }


def runs_by_workload(store: Store, sweep: str) -> dict[str, tuple[list[Run], Mapping[str, str]]]:
    """For each workload of a sweep its runs, stalled ones marked, and the params of one of them."""
    runs, params = read_runs(store, sweep)
    workloads: dict[str, tuple[list[Run], Mapping[str, str]]] = {}
    for name, found in by_workload(runs).items():
        # A trial that failed before its data set was there logged no such loss. Without any there is nothing to mark.
        logged = [params[run.run_id] for run in found]
        first = next((given for given in logged if "dataset.guess_loss" in given), logged[0])
        workloads[name] = mark_stalled(found, float(first.get("dataset.guess_loss", "nan"))), first
    return workloads


def settings_of(
    params: Mapping[str, str], margin: Margin | None = None, base_batch: int | None = None
) -> AnalysisSettings:
    """The terms on which a workload is judged, from the params of one of its runs."""
    kind = params["budget.kind"]
    amount = params.get(f"budget.{kind}")
    return AnalysisSettings(
        margin=margin or Margin(*parse_margin(params["report.margin"])),
        # Who gives a margin with the command may have seen the data before.
        margin_source="given with this report" if margin else "fixed beforehand",
        base_batch=base_batch,
        configured_base=int(params["scaling.base_batch"]),
        objective=STEPS_TO_TARGET if kind == "target" else params["objective"],
        budget="target" if kind == "target" else f"{float(amount):g} {kind}" if amount else "",
        split_seed=params.get("dataset.split_seed", ""),
        looks=_read_looks(params.get("report.confirm.looks", "")),
        base_lr=float(params["optimizer.base_lr"]) if params.get("scaling.base_lr_tuned") == "True" else None,
    )


def _read_looks(text: str) -> tuple[int, ...]:
    """Read `[12, 24, 48, 96]`; older sweeps have no such list, and their fresh seeds are judged in one look."""
    return tuple(map(int, json.loads(text))) if text.startswith("[") else ()
