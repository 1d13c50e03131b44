"""`python -m pipeline.advise`: what LR to use at another batch size, by each rule and by the evidence of runs."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.analysis.runs import by_workload
from pipeline.analysis.stats.advice import Question, advise, to_json
from pipeline.analysis.stats.answer import AnalysisSettings, analyse
from pipeline.analysis.stats.results import Answer
from pipeline.analysis.run_table import read_table
from pipeline.analysis.text.advice import print_advice
from pipeline.command import add_store_arguments, run_command
from pipeline.errors import RequestError
from pipeline.recipe.scaling import check_batch, check_positive


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, weigh rules and runs, print and write."""
    options = _parser().parse_args(arguments)
    question = read_question(options)
    answer = _answer(options, question.from_batch)
    advice = advise(question, answer)
    if options.json:
        try:
            Path(options.json).write_text(json.dumps(to_json(advice), indent=2) + "\n")
        except OSError as error:
            raise RequestError(f"--json={options.json}: it can't be written ({error.strerror}).") from None
    print_advice(advice, options.sweep or options.table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.advise", description=__doc__)
    # Numbers are read as text, and checked in `read_question`: argparse's own errors don't say what is allowed.
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


def read_question(options: argparse.Namespace) -> Question:
    """Check what the command line gave.

    Raises:
        RequestError: a batch that is no whole number from 1 up, betas outside of [0, 1), any other number that
            is not finite and above 0, or two sources of runs.
    """
    if options.sweep is not None and options.table is not None:
        raise RequestError("--sweep and --table: both are given.\nGive the one whose runs are the evidence.")
    return Question(
        from_batch=_batch("--from-batch", options.from_batch),
        from_lr=_positive("--from-lr", options.from_lr),
        to_batch=_batch("--to-batch", options.to_batch),
        betas=None if options.betas is None else _betas(options.betas),
        eps=None if options.eps is None else _positive("--eps", options.eps),
        exponent=None if options.exponent is None else _positive("--exponent", options.exponent),
        noise_scale=None if options.noise_scale is None else _positive("--noise-scale", options.noise_scale),
    )


def _batch(name: str, text: str) -> int:
    value = _number(text, int)
    check_batch(name, value)
    return int(value)


def _positive(name: str, text: str) -> float:
    value = _number(text, float)
    check_positive(name, value)
    return float(value)


def _betas(texts: Sequence[str]) -> tuple[float, ...]:
    values = [_number(text, float) for text in texts]
    if not all(isinstance(value, float) and 0 <= value < 1 for value in values):
        raise RequestError(
            f"--betas {' '.join(texts)}: each must be from 0 up to, and less than, 1.\nUsual: --betas 0.9 0.999."
        )
    return tuple(map(float, values))


def _number(text: str, kind: Callable[[str], float]) -> float | str:
    """`text` as a number, or as it is for the check that refuses it."""
    try:
        return kind(text)
    except ValueError:
        return text


def _answer(options: argparse.Namespace, from_batch: int) -> Answer | None:
    """Analyse the runs that were named, if any; rules start from `from_batch` where it has a best LR."""
    if options.table is not None:
        runs = by_workload(read_table(Path(options.table)))

        def answers_from(base_batch: int | None) -> dict[str, Answer]:
            return {name: analyse(found, AnalysisSettings(base_batch=base_batch)) for name, found in runs.items()}

    elif options.sweep is not None:
        from pipeline.sweep.answer import answer_sweep
        from pipeline.tracking.store import open_existing_store

        store = open_existing_store(options.tracking_uri, options.experiment)

        def answers_from(base_batch: int | None) -> dict[str, Answer]:
            found = answer_sweep(store, options.sweep, base_batch=base_batch)
            return {name: answer for name, (answer, _) in found.items()}

    else:
        return None
    answer = _only(answers_from(None))
    has_best = any(cell.batch == from_batch and cell.best_lr is not None for cell in answer.batches)
    return _only(answers_from(from_batch)) if has_best and from_batch != answer.base_batch else answer


def _only(answers: Mapping[str, Answer]) -> Answer:
    if len(answers) > 1:
        raise RequestError(
            f"Those runs are of several workloads: {', '.join(answers)}.\nGive a --table with the rows of one of them."
        )
    return next(iter(answers.values()))


if __name__ == "__main__":
    run_command(main)
