"""The tables of the HTML page as text: what stands in each cell, and what kind of cell it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.analysis.stats.results import JUDGED_RULES, Answer, Estimate, SensitivityCheck
from pipeline.analysis.text.table import columns, rows
from pipeline.analysis.text.wording import estimate_text

VERDICT_MARKS = {"holds": "●", "undecided": "○", "breaks": "×", "diverges": "×", "censored": "△"}


@dataclass(frozen=True)
class Column:
    """A column's head and the kind of its cells.

    Attributes:
        kind: `number` or `text`; `verdict`: a mark and words, of which the first is the verdict; `mark`: a verdict's
            mark alone.
    """

    title: str
    kind: str = "number"


@dataclass(frozen=True)
class PageTable:
    """A table under a heading; one without rows is left out of the page."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


def batch_table(answer: Answer) -> PageTable:
    """Make the table with a row for each batch size."""
    head = [Column(name, "verdict" if name in JUDGED_RULES else "number") for name in columns(answer)]
    return PageTable("Each batch size", head, rows(answer))


def law_table(answer: Answer) -> PageTable:
    """Make the table with a row for each fitted law."""
    names = ("law", "parameters, 95 % interval", "AIC", "weight", "p of the misfit", "note")
    head = [Column(name, "text" if name.startswith(("parameters", "note")) else "number") for name in names]
    body = []
    for law in answer.laws:
        name = law.rule.replace("_", " ") + (" ✓" if law.rule == answer.selected_law else "")
        parameters = "; ".join(f"{key.replace('_', ' ')} {_estimate(value)}" for key, value in law.parameters.items())
        body.append((name, parameters, f"{law.aic:.1f}", f"{law.weight:.2f}", f"{law.fit_p_value:.2g}", law.note))
    return PageTable("Laws for the best LR", head, body)


def sensitivity_table(title: str, first: str, checks: Sequence[SensitivityCheck]) -> PageTable:
    """Make a table of verdicts by other objectives or from other bases: for each check a row a rule, linear's first.

    Args:
        title: over the table.
        first: head of the first column, which names the check.
        checks: the table has a row for each rule of each.
    """
    sizes = sorted({size for check in checks for size in check.verdicts})
    head = [Column(name) for name in (first, "exponent, 95 % interval", "linear holds", "breaks at")]
    head += [Column("rule", "text"), *(Column(str(size), "mark") for size in sizes)]
    body = []
    for check in checks:
        holds = "nowhere" if check.holds_from is None else f"{check.holds_from} … {check.holds_up_to}"
        exponent = "" if check.exponent is None else _estimate(check.exponent)
        about_linear = (check.name, exponent, holds, "" if check.breaks_at is None else str(check.breaks_at))
        for rule, verdicts in {"linear": check.verdicts, **check.others}.items():
            about = about_linear if rule == "linear" else ("",) * 4
            body.append((*about, rule, *(verdicts.get(size, "") for size in sizes)))
    return PageTable(title, head, body)


def _estimate(estimate: Estimate) -> str:
    return estimate_text(estimate, digits=".3g", label="")
