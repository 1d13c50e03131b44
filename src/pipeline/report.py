"""`python -m pipeline.report`: the answer to a sweep, or to anybody's table of runs."""

import argparse
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.analysis.figures.all import draw_all
from pipeline.analysis.page.page import render_page
from pipeline.analysis.runs import CONFIRM, Run, by_workload, mark_stalled, read_table, write_table
from pipeline.analysis.stats.answer import Margin, Terms, analyse, choose_base
from pipeline.analysis.stats.confirmation import points_to_confirm
from pipeline.analysis.stats.laws import Optima
from pipeline.analysis.stats.published import law_of, read_optima
from pipeline.analysis.stats.results import STEPS_TO_TARGET, Answer
from pipeline.analysis.text.design import add_design_arguments, print_plan, read_design
from pipeline.analysis.text.render import law_json, print_answer, to_json, to_markdown
from pipeline.analysis.text.summary import headline, law_sentences
from pipeline.command import run_command
from pipeline.config.checks import parse_margin
from pipeline.errors import RequestError
from pipeline.tracking.target import DEFAULT_URI

if TYPE_CHECKING:
    from pipeline.tracking.store import Store

DEFAULT_EXPERIMENT = "lr-batch"
# Of a margin that was given with the command: the data may have been seen before.
GIVEN_NOW = "given with this report"
# Fresh seeds are numbered from here, so that they are told from a search's at a glance.
FIRST_FRESH_SEED = 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, analyse, print and write."""
    options = _parser().parse_args(arguments)
    if options.plan:
        print_plan(read_design(options), options.seconds_per_run, options.workers)
        return
    if options.table is None and options.sweep is None:
        raise RequestError("Nothing to report on: name a sweep, or give --table FILE, or --plan.")
    margin = None if options.margin is None else Margin(*parse_margin(options.margin))
    run_url = None
    if options.table is not None and (optima := read_optima(Path(options.table))) is not None:
        _report_law(optima, options)
        return
    if options.table is not None:
        runs = read_table(Path(options.table))
        terms = Terms(margin or Margin(), GIVEN_NOW if margin else "the default", options.base_batch)
        answers = {name: (analyse(found, terms), found) for name, found in by_workload(runs).items()}
    else:
        from pipeline.tracking.store import open_existing_store

        store = open_existing_store(options.tracking_uri, options.experiment)
        answers = answer_sweep(store, options.sweep, margin, options.base_batch, is_look=True)
        run_url = store.run_url
    title = options.table or options.sweep
    for name, (answer, _) in answers.items():
        print_answer(answer, f"{title} {name}".strip())
    _write_files(answers, title, run_url, options)


def _report_law(optima: Optima, options: argparse.Namespace) -> None:
    """What a table of best LRs says by itself.

    Raises:
        RequestError: figures or a page are asked for, or a base batch that is not in the table.
    """
    if options.html or options.figures:
        raise RequestError("A table of best LRs has no runs to draw.\nLeave out --html and --figures; --json works.")
    if options.base_batch is not None and options.base_batch not in optima.batches:
        known = ", ".join(f"{batch:.0f}" for batch in optima.batches)
        raise RequestError(f"--base-batch={options.base_batch}: it is not in the table.\nChoose one of: {known}.")
    found = law_of(optima, options.base_batch)
    for line in law_sentences(optima, *found):
        print(line)
    if options.json:
        _write(Path(options.json), json.dumps(law_json(optima, *found), indent=2))


def _write_files(
    answers: Mapping[str, tuple[Answer, list[Run]]],
    title: str,
    run_url: Callable[[str], str] | None,
    options: argparse.Namespace,
) -> None:
    """What was asked for by `--json`, `--html` and `--figures`; of several workloads each gets files of its own."""
    for name, (answer, runs) in answers.items():
        if options.json:
            _write(_beside(options.json, name), json.dumps(to_json(answer), indent=2))
        if options.html:
            page = render_page(answer, runs, f"{title} {name}".strip(), run_url)
            _write(_beside(options.html, name), page)
        if options.figures:
            with _writable(options.figures):
                draw_all(answer, runs, Path(options.figures) / _as_name(name), headline(answer))


@contextlib.contextmanager
def _writable(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RequestError(f"{path}: it can't be written ({error.strerror}).") from None


def _write(path: Path, text: str) -> None:
    with _writable(path):
        path.write_text(f"{text}\n")


def _beside(path: str, workload: str) -> Path:
    """`path`, with the workload in its name where there are several."""
    given = Path(path)
    return given.with_stem(f"{given.stem}-{_as_name(workload)}") if workload else given


def _metric(workload: str) -> str:
    """Under which a workload's best LRs are logged; MLflow's names have no `=` in them."""
    name = re.sub(r"[^\w. /-]+", ":", workload)
    return f"best_lr/{name}" if workload else "best_lr"


def _as_name(workload: str) -> str:
    """A workload's name as that of a file or folder."""
    return re.sub(r"[^\w.=,\[\]-]+", "-", workload)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("sweep", nargs="?", help="name of a sweep in MLflow")
    what.add_argument("--table", help="a CSV or JSON-lines file with the columns batch, lr, value")
    what.add_argument("--plan", action="store_true", help="say what a design could tell, before anything runs")
    parser.add_argument("--base-batch", type=int, help="the batch size that the rules start from")
    parser.add_argument("--margin", help="what counts as no difference: 5%% of the best loss, or a loss as 0.01")
    parser.add_argument("--json", help="write the answer to this file")
    parser.add_argument("--html", help="write a self-contained page with everything to this file")
    parser.add_argument("--figures", help="write the figures, as PNG and SVG, into this folder")
    add_design_arguments(parser.add_argument_group("with --plan"))
    parser.add_argument("--experiment", default=DEFAULT_EXPERIMENT, help="MLflow experiment (default: %(default)s)")
    uri = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_URI)
    parser.add_argument("--tracking-uri", default=uri, help="MLflow's store (default: MLFLOW_TRACKING_URI or mlruns/)")
    return parser


def answer_sweep(
    store: "Store", sweep: str, margin: Margin | None = None, base_batch: int | None = None, is_look: bool = False
) -> dict[str, tuple[Answer, list[Run]]]:
    """Analyse a sweep that MLflow holds, finished or not; its own margin and base batch are the defaults.

    Args:
        store: where it is.
        sweep: its name.
        margin, base_batch: in place of its own.
        is_look: whether somebody judges the sweep by it, which is counted on its parent run.

    Returns:
        For each workload in it (`optimizer=adamw`, where such a choice was swept; else one, named ``) its answer
        and the runs that it rests on.
    """
    from pipeline.tracking.sweep import count_looks, note_look

    workloads = _read_sweep(store, sweep)
    if is_look:
        note_look(store, sweep, sum(len(runs) for runs, _ in workloads.values()))
    looks = max(1, count_looks(store, sweep))
    return {
        name: (analyse(runs, _terms(params, margin, base_batch, looks)), runs)
        for name, (runs, params) in workloads.items()
    }


def _terms(params: Mapping[str, str], margin: Margin | None, base_batch: int | None, looks: int) -> Terms:
    """On what terms a workload of a sweep is judged, by the parameters of one of its runs."""
    target = params["budget.kind"] == "target"
    amount = params.get(f"budget.{params['budget.kind']}")
    return Terms(
        margin=margin or Margin(*parse_margin(params["report.margin"])),
        margin_source=GIVEN_NOW if margin else "fixed beforehand",
        base_batch=base_batch,
        configured_base=int(params["scaling.base_batch"]),
        objective=STEPS_TO_TARGET if target else params["objective"],
        budget="target" if target else f"{float(amount):g} {params['budget.kind']}" if amount else "",
        looks=looks,
        planned_looks=int(params.get("report.looks", 1)),
    )


def _read_sweep(store: "Store", sweep: str) -> dict[str, tuple[list[Run], Mapping[str, str]]]:
    """A sweep's runs by workload, stalled ones marked, and the parameters of one of them."""
    from pipeline.tracking.sweep import read_runs

    runs, params = read_runs(store, sweep)
    return {
        name: (mark_stalled(found, float(params[found[0].run_id]["dataset.guess_loss"])), params[found[0].run_id])
        for name, found in by_workload(runs).items()
    }


def points_of_sweep(
    store: "Store", sweep: str, count: int
) -> Iterator[tuple[frozenset[tuple[str, str]], float, list[int]]]:
    """What fresh seeds should run in a sweep whose search is done: (a cell's choices, LR, `count` seeds).

    The seeds are the first that the search did not use, the same for all cells.
    """
    workloads = _read_sweep(store, sweep)
    used = {run.seed for runs, _ in workloads.values() for run in runs if run.phase != CONFIRM}
    seeds = [seed for seed in range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + count + len(used)) if seed not in used][:count]
    for found, params in workloads.values():
        sizes = sorted({run.batch for run in found})
        base, _ = choose_base(sizes, None, int(params["scaling.base_batch"]))
        for batch, lr in points_to_confirm(found, base):
            yield frozenset({("batch", str(batch)), *found[0].other.items()}), lr, seeds


def write_report(store: "Store", sweep: str, parent_id: str) -> dict[str, Answer]:
    """Analyse a finished sweep and put figures, table, page, JSON and summary on its parent run.

    Returns:
        For each workload in the sweep its answer.
    """
    from pipeline.tracking.sweep import log_report, tag_stalled

    answers = answer_sweep(store, sweep, is_look=True)
    everything = [run for _, runs in answers.values() for run in runs]
    tag_stalled(store, everything)
    with tempfile.TemporaryDirectory() as scratch:
        write_table(everything, Path(scratch) / "runs.csv")
        for name, (answer, runs) in answers.items():
            folder, title = Path(scratch) / _as_name(name), f"{sweep} {name}".strip()
            draw_all(answer, runs, folder, headline(answer))
            (folder / "report.json").write_text(json.dumps(to_json(answer), indent=2) + "\n")
            (folder / "report.html").write_text(render_page(answer, runs, title, store.run_url))
        description = "\n".join(
            f"## {name}\n\n{to_markdown(answer)}" if name else to_markdown(answer)
            for name, (answer, _) in answers.items()
        )
        best = {
            _metric(name): {cell.batch: cell.best_lr for cell in answer.batches if cell.best_lr is not None}
            for name, (answer, _) in answers.items()
        }
        log_report(store, parent_id, scratch, description, best)
    return {name: answer for name, (answer, _) in answers.items()}


if __name__ == "__main__":
    run_command(main)
