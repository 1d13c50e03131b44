"""`python -m pipeline.report`: the answer to a sweep, or to anybody's table of runs."""

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.analysis.figures.registry import save_figures
from pipeline.analysis.page.page import render_page
from pipeline.analysis.run_table import read_table
from pipeline.analysis.runs import Run, by_workload, workload_file_name
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.laws import fit_published
from pipeline.analysis.stats.optima import Optima, read_optima
from pipeline.analysis.stats.results import Answer
from pipeline.analysis.stats.settings import AnalysisSettings, Margin
from pipeline.analysis.text.design import add_design_arguments, print_plan, read_design
from pipeline.analysis.text.laws import law_sentences
from pipeline.analysis.text.render import print_answer
from pipeline.analysis.text.report_json import law_json, to_json
from pipeline.command import add_store_arguments, run_command
from pipeline.config.checks import parse_margin
from pipeline.errors import RequestError


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, analyse, print and write.

    Raises:
        RequestError: no runs to report on, or something in the request is wrong.
    """
    options = _parser().parse_args(arguments)
    margin = None if options.plan or options.margin is None else Margin(*parse_margin(options.margin))
    if options.plan:
        print_plan(read_design(options), options.seconds_per_run, options.workers)
    elif options.table is not None and (optima := read_optima(Path(options.table))) is not None:
        _report_law(optima, options)
    elif options.table is not None:
        _report(_answer_table(options, margin), options.table, options)
    elif options.sweep is not None:
        _report_sweep(options, margin)
    else:
        raise RequestError("Nothing to report on: name a sweep, or give --table FILE, or --plan.")


def _report_sweep(options: argparse.Namespace, margin: Margin | None) -> None:
    from pipeline.sweep.answer import answer_sweep
    from pipeline.tracking.store import open_existing_store

    store = open_existing_store(options.tracking_uri, options.experiment)
    answers = answer_sweep(store, options.sweep, margin, options.base_batch)
    _report(answers, options.sweep, options, store.run_url)


def _answer_table(options: argparse.Namespace, margin: Margin | None) -> dict[str, tuple[Answer, list[Run]]]:
    source = "given with this report" if margin else "the default"
    terms = AnalysisSettings(margin or Margin(), source, options.base_batch)
    runs = read_table(Path(options.table))
    return {name: (analyse(found, terms), found) for name, found in by_workload(runs).items()}


def _report(
    answers: Mapping[str, tuple[Answer, list[Run]]],
    title: str,
    options: argparse.Namespace,
    run_url: Callable[[str], str] | None = None,
) -> None:
    """Print each workload's answer, and write the files that were asked for; several workloads get a file each."""
    for name, (answer, _) in answers.items():
        print_answer(answer, f"{title} {name}".strip())
    for name, (answer, runs) in answers.items():
        if options.json:
            _write(_file_of(options.json, name), json.dumps(to_json(answer), indent=2))
        if options.html:
            _write(_file_of(options.html, name), render_page(answer, runs, f"{title} {name}".strip(), run_url))
        if options.figures:
            with _writable(options.figures):
                save_figures(answer, runs, Path(options.figures) / workload_file_name(name))


def _report_law(optima: Optima, options: argparse.Namespace) -> None:
    if options.html or options.figures:
        raise RequestError("A table of best LRs has no runs to draw.\nLeave out --html and --figures; --json works.")
    if options.base_batch is not None and options.base_batch not in optima.batches:
        known = ", ".join(f"{batch:.0f}" for batch in optima.batches)
        raise RequestError(f"--base-batch={options.base_batch}: it is not in the table.\nChoose one of: {known}.")
    found = fit_published(optima, options.base_batch)
    for line in law_sentences(optima, *found):
        print(line)
    if options.json:
        _write(Path(options.json), json.dumps(law_json(optima, *found), indent=2))


def _file_of(path: str, workload: str) -> Path:
    """`path`, with the workload in its name where there are several."""
    given = Path(path)
    return given.with_stem(f"{given.stem}-{workload_file_name(workload)}") if workload else given


def _write(path: Path, text: str) -> None:
    with _writable(path):
        path.write_text(f"{text}\n", encoding="utf-8")


@contextlib.contextmanager
def _writable(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RequestError(f"{path}: it can't be written ({error.strerror}).") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("sweep", nargs="?", help="name of a sweep in MLflow")
    what.add_argument("--table", help="a CSV or JSON-lines file with the columns batch, lr, value")
    what.add_argument("--plan", action="store_true", help="say what a design could tell, before anything runs")
    parser.add_argument("--base-batch", type=int, help="the batch size that the rules start from")
    parser.add_argument("--margin", help="what counts as no difference: 10%% of the best loss, or a loss as 0.01")
    parser.add_argument("--json", help="write the answer to this file")
    parser.add_argument("--html", help="write a self-contained page with everything to this file")
    parser.add_argument("--figures", help="write the figures, as PNG and SVG, into this folder")
    add_design_arguments(parser.add_argument_group("with --plan"))
    add_store_arguments(parser)
    return parser


if __name__ == "__main__":
    run_command(main)
