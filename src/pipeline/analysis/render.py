"""The answer in words, tables and JSON."""

import math
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.analysis.results import FEW_STEPS, Answer, BatchResult

COLUMNS = (
    *("batch", "best LR", "95 % interval", "linear's LR", "ratio"),
    *("loss at best", "at linear's", "worse by, 90 %", "linear", "sqrt", "fixed"),
)
# The verdicts; the columns before them hold numbers.
VERDICT_COLUMNS = 3


def rows(answer: Answer) -> list[tuple[str, ...]]:
    """The table's cells as text, a row for each batch size."""
    return [_row(cell, answer) for cell in answer.batches]


def _row(cell: BatchResult, answer: Answer) -> tuple[str, ...]:
    rule = cell.rules["linear"] if cell.rules else None
    rule_lr = rule.lr if rule and math.isfinite(rule.lr) else None
    name = f"{cell.batch}{' *' if cell.batch == answer.base_batch else ''}{' †' if cell.starved else ''}"
    interval = "" if cell.ci_low is None or cell.ci_high is None else f"{cell.ci_low:.2g}…{cell.ci_high:.2g}"
    ratio = f"{rule_lr / cell.best_lr:.2f}" if rule_lr and cell.best_lr else ""
    best = _number(cell.best_lr) if cell.best_lr else _beyond(cell)
    verdicts = [_verdict(cell, rule_name) for rule_name in ("linear", "sqrt", "fixed")]
    loss = _number(rule.loss) if rule else ""
    worse = "" if rule is None or rule.regret_low is None else _span(rule.regret_low, rule.regret_high)
    return (name, best, interval, _number(rule_lr), ratio, _number(cell.best_value), loss, worse, *verdicts)


def _beyond(cell: BatchResult) -> str:
    """`< 0.1`: the best LR may lie below the lowest one that was tried; `?` where nothing could be fitted."""
    if cell.curve is None or cell.censored is None:
        return "?"
    sign, end = ("<", 0) if cell.censored == "low" else (">", -1)
    return f"{sign} {_number(float(2 ** cell.curve.octaves[end]), 2)}"


def _verdict(cell: BatchResult, rule: str) -> str:
    """The verdict in a word; a rule that breaks because its LR is one at which runs fail `diverges`."""
    if cell.rules is None:
        return "?"
    result = cell.rules[rule]
    return result.reason if result.reason == "diverges" else result.verdict


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def _span(low: float, high: float | None) -> str:
    """A range of losses, to four decimals at most: what is smaller is nothing."""
    return "…".join("∞" if math.isinf(end) else f"{round(end, 4):.2g}" for end in (low, high or 0.0))


def summary(answer: Answer) -> list[str]:
    """The answer in sentences, the most important first."""
    base = answer.base_batch
    lines = [_headline(answer)]
    if answer.exponent:
        value, low, high = answer.exponent
        sizes = [cell.batch for cell in answer.batches if cell.best_lr is not None]
        law = f"Best LR ∝ batch^{value:.2f} (95 %: {low:.2f} … {high:.2f}) over {sizes[0]} … {sizes[-1]}"
        lines.append(
            f"{law}; linear is 1, sqrt 0.5, fixed 0." if high - low <= 0.4 else f"{law}: too wide to name a law."
        )
    also = [rule for rule in ("sqrt", "fixed") if _holds_wherever_linear_does(answer, rule)]
    if also and answer.holds_up_to is not None:
        verb = "hold" if len(also) > 1 else "holds"
        lines.append(f"Not distinguishing: where linear holds, {' and '.join(also)} {verb} too.")
    if any("diverges" in row for row in rows(answer)):
        lines.append("Diverges: breaks, for the rule's LR is one at which runs fail.")
    undecided = [cell for cell in answer.batches if cell.rules and cell.rules["linear"].verdict == "undecided"]
    if undecided:
        lines.append("Undecided: these runs can't tell whether the difference is within the margin; more seeds can.")
    if answer.margin is not None:
        noise = f"; seeds differ by {answer.seed_sd:.2g} (sd)" if answer.seed_sd is not None else ""
        lines.append(f"A rule holds where its {answer.objective} is within {answer.margin:.3g} of the best{noise}.")
    lines.append(
        f"Base batch {base} (*, {answer.base_reason}): rules start from its own best LR. Losses are interpolated."
    )
    if any(cell.starved for cell in answer.batches):
        lines.append(f"† fewer than {FEW_STEPS} optimizer steps: says more about too few steps than about the rule.")
    if answer.seeds == 1:
        lines.append("One seed only: the intervals are those of this seed, not of the workload.")
    return lines


def _headline(answer: Answer) -> str:
    base = answer.base_batch
    if answer.holds_up_to is None or answer.holds_from is None:
        return f"Whether the linear rule holds can't be said: batch {base} has no best LR to start from."
    found = {verdict: _sizes(answer, verdict) for verdict in ("holds", "breaks", "undecided", "censored")}
    parts = [f"{verdict} at {sizes}" for verdict in ("holds", "breaks") if (sizes := found[verdict])]
    parts += [f"is {verdict} at {sizes}" for verdict in ("undecided", "censored") if (sizes := found[verdict])]
    return f"The linear rule, from batch {base}, " + ", ".join(parts) + "."


def _sizes(answer: Answer, verdict: str) -> str:
    """The batch sizes, besides the base, at which linear's verdict is `verdict`, as text."""
    sizes = [
        str(cell.batch)
        for cell in answer.batches
        if cell.batch != answer.base_batch and cell.rules and cell.rules["linear"].verdict == verdict
    ]
    return ", ".join(sizes)


def _holds_wherever_linear_does(answer: Answer, rule: str) -> bool:
    there = [cell for cell in answer.batches if cell.batch != answer.base_batch and cell.rules]
    there = [cell for cell in there if cell.rules["linear"].verdict == "holds"]  # type: ignore[index]
    return bool(there) and all(cell.rules[rule].verdict == "holds" for cell in there)  # type: ignore[index]


def print_answer(answer: Answer, title: str, console: Console | None = None) -> None:
    """Print the table and the sentences to the terminal."""
    console = console or Console(highlight=False, width=None)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for position, column in enumerate(COLUMNS):
        is_number = position < len(COLUMNS) - VERDICT_COLUMNS
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    colors = {"holds": "green", "breaks": "red", "diverges": "red", "undecided": "yellow"}
    for row in rows(answer):
        styled = [
            f"[{color}]{cell}[/]" if (color := colors.get(cell.split()[0] if cell else "")) else cell for cell in row
        ]
        table.add_row(*styled)
    console.print(table)
    for line in summary(answer):
        console.print(line)


def to_markdown(answer: Answer) -> str:
    """The table and the sentences in Markdown, for MLflow's description of the parent run."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(answer)]
    first, *rest = summary(answer)
    return "\n".join([f"**{first}**", "", *lines, "", *(f"- {line}" for line in rest)]) + "\n"


def to_json(answer: Answer) -> dict[str, Any]:
    """The answer as plain data: `report.json`."""
    batches = []
    for cell in answer.batches:
        rule = cell.rules["linear"] if cell.rules else None
        batches.append(
            {
                "batch": cell.batch,
                "best_lr": cell.best_lr,
                "ci_low": cell.ci_low,
                "ci_high": cell.ci_high,
                "censored": cell.censored,
                "band_low": cell.band_low,
                "band_high": cell.band_high,
                "best_value": cell.best_value,
                "test_value": cell.test_value,
                "steps": cell.steps,
                "failed_fraction": cell.failed / cell.runs,
                "stable_lr": cell.stable_lr,
                "failing_lr": cell.failing_lr,
                "rule_lr": _finite(rule.lr) if rule else None,
                "regret": _finite(rule.regret) if rule else None,
                "regret_ci_low": _finite(rule.regret_low) if rule else None,
                "regret_ci_high": _finite(rule.regret_high) if rule else None,
                "verdict": rule.verdict if rule else "undecided",
            }
        )
    exponent = dict(zip(("value", "ci_low", "ci_high"), answer.exponent, strict=True)) if answer.exponent else None
    return {
        "base_batch": answer.base_batch,
        "margin": answer.margin,
        "seed_sd": answer.seed_sd,
        "budget": answer.budget,
        "objective": answer.objective,
        "batches": batches,
        "exponent": exponent,
        "holds_from": answer.holds_from,
        "holds_up_to": answer.holds_up_to,
        "breaks_at": answer.breaks_at,
    }


def _finite(value: float | None) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None
