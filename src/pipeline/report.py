"""`python -m pipeline.report`: the answer to a sweep, or to anybody's table of runs."""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.analysis.answer import analyse
from pipeline.analysis.render import print_answer, to_json, to_markdown
from pipeline.analysis.results import Answer
from pipeline.analysis.table import Run, mark_stalled, read_table, write_table
from pipeline.command import run_command
from pipeline.request import parse_margin

if TYPE_CHECKING:
    from pipeline.tracking.store import Store

DEFAULT_URI = "sqlite:///mlruns/mlflow.db"
DEFAULT_EXPERIMENT = "lr-batch"
DEFAULT_MARGIN = "5%"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, analyse, print and write."""
    options = _parser().parse_args(arguments)
    margin = None if options.margin is None else parse_margin(options.margin)
    if options.table is not None:
        runs = read_table(Path(options.table))
        answer = analyse(runs, margin=margin or parse_margin(DEFAULT_MARGIN), base_batch=options.base_batch)
        print_answer(answer, options.table)
    else:
        from pipeline.tracking.store import open_existing_store

        store = open_existing_store(options.tracking_uri, options.experiment)
        answer, runs = answer_sweep(store, options.sweep, margin, options.base_batch)
        print_answer(answer, options.sweep)
    if options.json:
        Path(options.json).write_text(json.dumps(to_json(answer), indent=2) + "\n")
    if options.html:
        _write_html(answer, runs, Path(options.html))
    if options.png:
        from pipeline.analysis.answer_figure import draw_answer

        draw_answer(answer, runs, Path(options.png))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("sweep", nargs="?", help="name of a sweep in MLflow")
    what.add_argument("--table", help="a CSV or JSON-lines file with the columns batch, lr, value")
    parser.add_argument("--base-batch", type=int, help="the batch size that the rules start from")
    parser.add_argument("--margin", help="what counts as no difference: 5%% of the best loss, or a loss as 0.01")
    parser.add_argument("--json", help="write the answer to this file")
    parser.add_argument("--html", help="write a page with the table and the figure to this file")
    parser.add_argument("--png", help="write the figure to this file")
    parser.add_argument("--experiment", default=DEFAULT_EXPERIMENT, help="MLflow experiment (default: %(default)s)")
    uri = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_URI)
    parser.add_argument("--tracking-uri", default=uri, help="MLflow's store (default: MLFLOW_TRACKING_URI or mlruns/)")
    return parser


def answer_sweep(
    store: "Store", sweep: str, margin: tuple[float, bool] | None = None, base_batch: int | None = None
) -> tuple[Answer, list[Run]]:
    """Analyse a sweep that MLflow holds, finished or not; its own margin and base batch are the defaults."""
    from pipeline.tracking.sweep import read_runs

    runs, params = read_runs(store, sweep)
    runs = mark_stalled(runs, float(params["dataset.guess_loss"]))
    target = params["budget.kind"] == "target"
    amount = params.get(f"budget.{params['budget.kind']}")
    answer = analyse(
        runs,
        margin=margin or parse_margin(params["report.margin"]),
        base_batch=base_batch,
        configured_base=int(params["scaling.base_batch"]),
        objective="steps to target" if target else params["objective"],
        budget="target" if target else f"{float(amount):g} {params['budget.kind']}" if amount else "",
    )
    return answer, runs


def write_report(store: "Store", sweep: str, parent_id: str) -> Answer:
    """Analyse a sweep and put figure, table, page, JSON and summary on its parent run."""
    from pipeline.analysis.answer_figure import draw_answer
    from pipeline.tracking.sweep import log_report, tag_stalled

    answer, runs = answer_sweep(store, sweep)
    tag_stalled(store, runs)
    best = {cell.batch: cell.best_lr for cell in answer.batches if cell.best_lr is not None}
    with tempfile.TemporaryDirectory() as folder:
        draw_answer(answer, runs, Path(folder) / "answer.png")
        write_table(runs, Path(folder) / "runs.csv")
        (Path(folder) / "report.json").write_text(json.dumps(to_json(answer), indent=2) + "\n")
        _write_html(answer, runs, Path(folder) / "report.html")
        log_report(store, parent_id, folder, to_markdown(answer), best)
    return answer


def _write_html(answer: Answer, runs: Sequence[Run], path: Path) -> None:
    from pipeline.analysis.page import render_page

    path.write_text(render_page(answer, runs))


if __name__ == "__main__":
    run_command(main)
