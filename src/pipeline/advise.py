"""`python -m pipeline.advise`: what LR to use at another batch size, by each rule and by the evidence of runs."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.analysis.run_table import read_table
from pipeline.analysis.runs import by_workload
from pipeline.analysis.stats.advice import Question, advise
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.results import Answer
from pipeline.analysis.stats.settings import AnalysisSettings
from pipeline.analysis.text.advice import print_advice
from pipeline.command import add_store_arguments, run_command
from pipeline.errors import RequestError
from pipeline.recipe.checks import check_batch, check_positive


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the question, apply the rules, look up the evidence, print and write the advice."""
    options = _parser().parse_args(arguments)
    question = _read_question(options)
    advice = advise(question, _analyse_evidence(options, question.from_batch))
    if options.json:
        try:
            Path(options.json).write_text(json.dumps(asdict(advice), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise RequestError(f"--json={options.json}: it can't be written ({error.strerror}).") from None
    print_advice(advice, options.sweep or options.table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.advise", description=__doc__)
    # Numbers are read as text and checked in `_read_question`: argparse's own errors don't say what is allowed.
    parser.add_argument("--from-batch", required=True, help="examples in one optimizer step at which the LR was tuned")
    parser.add_argument("--from-lr", required=True, help="the LR that was tuned")
    parser.add_argument("--to-batch", required=True, help="examples in one optimizer step from now on")
    parser.add_argument("--betas", nargs=2, metavar=("B1", "B2"), help="Adam's betas, at --from-batch")
    parser.add_argument("--eps", help="Adam's eps, at --from-batch")
    parser.add_argument("--exponent", help="of the rule power; a report says what was fitted")
    parser.add_argument("--noise-scale", help="of the rules saturating and surge, in examples")
    parser.add_argument("--sweep", help="name of a sweep in MLflow")
    parser.add_argument("--table", help="a CSV or JSON-lines file with the columns batch, lr, value")
    parser.add_argument("--json", help="write the advice to this file")
    add_store_arguments(parser)
    return parser


def _read_question(options: argparse.Namespace) -> Question:
    if options.sweep is not None and options.table is not None:
        raise RequestError("--sweep and --table: both are given.\nGive the one whose runs are the evidence.")

    def read_positive(name: str) -> Any:
        text = getattr(options, name)
        return None if text is None else _read_number(f"--{name.replace('_', '-')}", text, float, check_positive)

    return Question(
        from_batch=_read_number("--from-batch", options.from_batch, int, check_batch),
        from_lr=read_positive("from_lr"),
        to_batch=_read_number("--to-batch", options.to_batch, int, check_batch),
        betas=None if options.betas is None else _read_betas(options.betas),
        eps=read_positive("eps"),
        exponent=read_positive("exponent"),
        noise_scale=read_positive("noise_scale"),
    )


def _read_number(name: str, text: str, kind: type, check: Callable[[str, Any], None]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = text  # `check` refuses it and says what is allowed
    check(name, value)
    return value


def _read_betas(texts: Sequence[str]) -> tuple[float, ...]:
    try:
        betas = tuple(map(float, texts))
    except ValueError:
        betas = ()
    if not betas or not all(0 <= beta < 1 for beta in betas):
        raise RequestError(
            f"--betas {' '.join(texts)}: each must be from 0 up to, and less than, 1.\nUsual: --betas 0.9 0.999."
        )
    return betas


def _analyse_evidence(options: argparse.Namespace, from_batch: int) -> Answer | None:
    """Analyse the runs that were named, if any; the rules start from `from_batch` where it has a best LR."""
    if options.sweep is None and options.table is None:
        return None
    answer = _analyse(options, None)
    has_best = any(cell.batch == from_batch and cell.best_lr is not None for cell in answer.batches)
    return _analyse(options, from_batch) if has_best and from_batch != answer.base_batch else answer


def _analyse(options: argparse.Namespace, base_batch: int | None) -> Answer:
    if options.table is not None:
        workloads = by_workload(read_table(Path(options.table)))
        answers = {name: analyse(runs, AnalysisSettings(base_batch=base_batch)) for name, runs in workloads.items()}
    else:
        from pipeline.sweep.answer import answer_sweep
        from pipeline.tracking.store import open_existing_store

        store = open_existing_store(options.tracking_uri, options.experiment)
        found = answer_sweep(store, options.sweep, base_batch=base_batch)
        answers = {name: answer for name, (answer, _) in found.items()}
    if len(answers) > 1:
        raise RequestError(
            f"Those runs are of several workloads: {', '.join(answers)}.\nGive a --table with the rows of one of them."
        )
    return next(iter(answers.values()))


if __name__ == "__main__":
    run_command(main)
