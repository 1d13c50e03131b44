"""The answer in words, tables and JSON."""

import math
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.analysis.stats.laws import Optima
from pipeline.analysis.stats.results import Answer, BatchResult, Estimate, Judged, Law, RuleResult
from pipeline.analysis.stats.verdict import contiguous
from pipeline.analysis.text.summary import summary

BEST_COLUMNS = ("batch", "best LR", "95 % interval", "tolerates", "stability", "linear's LR", "ratio", "loss at best")
TEST_COLUMN = "on test"
RULE_COLUMNS = ("linear", "sqrt", "fixed")


def columns(answer: Answer) -> tuple[str, ...]:
    """The table's head; the test loss at the best LR stands in it where it is known."""
    worse = f"worse by, {100 * (1 - 2 * answer.level):.3g} %"
    return (*BEST_COLUMNS, *((TEST_COLUMN,) if _tested(answer) else ()), "at linear's", worse, *RULE_COLUMNS)


def _tested(answer: Answer) -> bool:
    return any(cell.test_value is not None for cell in answer.batches)


def rows(answer: Answer) -> list[tuple[str, ...]]:
    """The table's cells as text, a row for each batch size."""
    return [_row(cell, answer) for cell in answer.batches]


def _row(cell: BatchResult, answer: Answer) -> tuple[str, ...]:
    rule = cell.rules["linear"]
    rule_lr = rule.lr if math.isfinite(rule.lr) else None
    name = f"{cell.batch}{' *' if cell.batch == answer.base_batch else ''}{' †' if cell.starved else ''}"
    interval = "" if cell.ci_low is None or cell.ci_high is None else f"{cell.ci_low:.2g}…{cell.ci_high:.2g}"
    tolerates = "" if cell.band_octaves is None else f"{'≥ ' * cell.band_is_open}{cell.band_octaves:.1f} oct"
    ratio = f"{rule_lr / cell.best_lr:.2f}" if rule_lr and cell.best_lr else ""
    best = _number(cell.best_lr) if cell.best_lr else _beyond(cell)
    verdicts = [_verdict(cell, rule_name) for rule_name in RULE_COLUMNS]
    if cell.alike and cell.batch != answer.base_batch:
        verdicts[0] += " ≈"
    worse = "" if rule.regret_low is None else _span(rule.regret_low, rule.regret_high)
    found = (name, best, interval, tolerates, _stability(cell), _number(rule_lr), ratio)
    losses = (_number(cell.best_value), *((_number(cell.test_value),) if _tested(answer) else ()), _number(rule.loss))
    return (*found, *losses, worse, *verdicts)


def _stability(cell: BatchResult) -> str:
    """Between which LRs the stability limit lies: where all seeds finished still, and where the first failed."""
    stable, failing = _number(cell.stable_lr, 2), _number(cell.failing_lr, 2)
    if not failing:
        return f"> {stable}" if stable else ""
    return f"{stable}…{failing}" if stable else f"< {failing}"


def _beyond(cell: BatchResult) -> str:
    """`< 0.1`: the best LR may lie below the lowest one that was tried; `?` where nothing could be fitted."""
    if cell.curve is None or cell.censored is None:
        return "?"
    sign, end = ("<", 0) if cell.censored == "low" else (">", -1)
    return f"{sign} {_number(float(2 ** cell.curve.octaves[end]), 2)}"


def _verdict(cell: BatchResult, rule: str) -> str:
    """The verdict in a word; a rule that breaks because its LR is one at which runs fail `diverges`."""
    result = cell.rules[rule]
    return result.reason if result.reason == "diverges" else result.verdict


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def _span(low: float, high: float | None) -> str:
    """A range of losses, to four decimals at most: what is smaller is nothing."""
    return "…".join("∞" if math.isinf(end) else f"{round(end, 4):.2g}" for end in (low, high or 0.0))


def print_answer(answer: Answer, title: str, console: Console | None = None) -> None:
    """Print the table and the sentences to the terminal."""
    console = console or Console(highlight=False, width=None)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    head = columns(answer)
    for position, column in enumerate(head):
        is_number = position < len(head) - len(RULE_COLUMNS)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    colors = {"holds": "green", "breaks": "red", "diverges": "red", "undecided": "yellow"}
    for row in rows(answer):
        table.add_row(*(Text(cell, style=colors.get(cell.split()[0] if cell else "", "")) for cell in row))
    console.print(table)
    for line in summary(answer):
        console.print(Text(line))
    for item in answer.questions:
        console.print(Text.assemble(item.question, " ", (item.answer, "bold"), " ", item.evidence))


def to_markdown(answer: Answer) -> str:
    """The table, the sentences and the questions in Markdown, for MLflow's description of the parent run."""
    head = columns(answer)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(answer)]
    first, *rest = summary(answer)
    asked = [f"**{item.question}** {item.answer} {item.evidence}" for item in answer.questions]
    return "\n".join([f"**{first}**", "", *lines, "", *(f"- {line}" for line in rest), "", *asked]) + "\n"


def to_json(answer: Answer) -> dict[str, Any]:
    """The answer as plain data: `report.json`."""
    return {
        "base_batch": answer.base_batch,
        "margin": answer.margin,
        "seed_sd": answer.seed_sd,
        "budget": answer.budget,
        "objective": answer.objective,
        "level": answer.level,
        "looks": answer.looks,
        "batches": [_batch_json(cell) for cell in answer.batches],
        "exponent": _estimate_json(answer.exponent),
        "exponent_to_break": _estimate_json(answer.exponent_to_break),
        "holds_from": answer.holds_from,
        "holds_up_to": answer.holds_up_to,
        "breaks_at": answer.breaks_at,
        "rules": _rules_json(answer),
        "law": answer.winner,
        "noise_scale": {str(cell.batch): cell.noise_scale for cell in answer.batches if cell.noise_scale is not None},
        "anchors": [_judged_json(item) for item in answer.anchors],
        "objectives": [_judged_json(item) for item in answer.objectives],
        "questions": [vars(item) for item in answer.questions],
    }


def _batch_json(cell: BatchResult) -> dict[str, Any]:
    rule = cell.rules["linear"]
    same = ("batch", "best_lr", "ci_low", "ci_high", "censored", "band_low", "band_high", "band_octaves", "best_value")
    return {
        **{name: getattr(cell, name) for name in (*same, "test_value", "steps")},
        "failed_fraction": cell.failed / cell.runs,
        "stable_lr": cell.stable_lr,
        "failing_lr": cell.failing_lr,
        "noise_scale": cell.noise_scale,
        "seeds": cell.seeds,
        "band_is_open": cell.band_is_open,
        "detectable_octaves": cell.detectable,
        "rule_lr": _finite(rule.lr),
        "regret": _finite(rule.regret),
        "regret_ci_low": _finite(rule.regret_low),
        "regret_ci_high": _finite(rule.regret_high),
        "verdict": rule.verdict,
        "not_distinguishing": list(cell.alike),
        "evidence": rule.evidence,
        "rules": {name: _rule_json(result) for name, result in cell.rules.items()},
    }


def _rule_json(rule: RuleResult) -> dict[str, Any]:
    return {name: _finite(value) if isinstance(value, float) else value for name, value in vars(rule).items()}


def _rules_json(answer: Answer) -> list[dict[str, Any]]:
    """Every rule and law: its fit, and how far it holds where it was judged."""
    laws = {law.rule: law for law in answer.laws}
    rows = []
    for name in [*laws, *(rule for rule in RULE_COLUMNS if rule not in laws)]:
        row: dict[str, Any] = {"rule": name, "parameters": {}, "aicc": None, "weight": None, "note": ""}
        if law := laws.get(name):
            row |= _law_json(law)
        found: tuple[int | None, ...] = (None, None, None)
        if name in RULE_COLUMNS:
            verdicts = {cell.batch: cell.rules[name].verdict for cell in answer.batches}
            found = contiguous(verdicts, answer.base_batch)
        rows.append(row | dict(zip(("holds_from", "holds_up_to", "breaks_at"), found, strict=True)))
    return rows


def _law_json(law: Law) -> dict[str, Any]:
    parameters = {key: _estimate_json(value) for key, value in law.parameters.items()}
    # Named as the table's readers know it; the optima's covariance being known, its small-sample term is zero.
    fit = {"aicc": law.aic, "weight": law.weight, "misfit": law.misfit, "note": law.note}
    return {"rule": law.rule, "parameters": parameters, **fit}


def law_json(optima: Optima, exponent: Estimate | None, laws: Sequence[Law], winner: str | None) -> dict[str, Any]:
    """What a table of best LRs says, as plain data."""
    batches = [
        {"batch": int(batch), "best_lr": float(2**octave)}
        for batch, octave in zip(optima.batches, optima.octaves, strict=True)
    ]
    rules = [_law_json(law) for law in laws]
    return {"batches": batches, "exponent": _estimate_json(exponent), "rules": rules, "law": winner}


def _judged_json(item: Judged) -> dict[str, Any]:
    linear, *others = (
        {str(batch): verdict for batch, verdict in verdicts.items()}
        for verdicts in (item.verdicts, *item.others.values())
    )
    named = dict(zip(item.others, others, strict=True))
    return vars(item) | {"verdicts": linear, "others": named, "exponent": _estimate_json(item.exponent)}


def _estimate_json(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {"value": estimate.value, "ci_low": _finite(estimate.low), "ci_high": _finite(estimate.high)}


def _finite(value: float | None) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None
