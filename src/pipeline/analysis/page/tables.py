"""The tables of the HTML page."""

import html
import math
from collections.abc import Iterable, Sequence

from pipeline.analysis.stats.results import Answer, Estimate, SensitivityCheck
from pipeline.analysis.text.table import columns, rows

VERDICTS = {"holds": "●", "undecided": "○", "breaks": "×", "diverges": "×", "censored": "△"}


def batch_table(answer: Answer) -> str:
    """A row for each batch size."""
    body = [[_verdict_cell(cell) for cell in row] for row in rows(answer)]
    return _table("Each batch size", columns(answer), body)


def law_table(answer: Answer) -> str:
    """A row for each fitted law; nothing where none was fitted."""
    body = []
    for law in answer.laws:
        parameters = "; ".join(f"{name.replace('_', ' ')} {estimate(value)}" for name, value in law.parameters.items())
        name = law.rule.replace("_", " ") + (" ✓" if law.rule == answer.selected_law else "")
        numbers = [f"{law.aic:.1f}", f"{law.weight:.2f}", f"{law.fit_p_value:.2g}"]
        body.append([_cell(name), _cell(parameters, "text"), *map(_cell, numbers), _cell(law.note, "text")])
    head = ("law", "parameters, 95 % interval", "AIC", "weight", "p of the misfit", "note")
    return _table("Laws for the best LR", head, body)


def judged_table(title: str, first: str, judged: Sequence[SensitivityCheck]) -> str:
    """The rules' verdicts at each batch size, linear's first, for each way to judge; nothing where there is none."""
    sizes = sorted({size for one in judged for size in one.verdicts})
    body = []
    for one in judged:
        reach = "nowhere" if one.holds_from is None else f"{one.holds_from} … {one.holds_up_to}"
        exponent = "" if one.exponent is None else estimate(one.exponent)
        broken = "" if one.breaks_at is None else str(one.breaks_at)
        for rule, verdicts in {"linear": one.verdicts, **one.others}.items():
            known = (one.name, exponent, reach, broken) if rule == "linear" else ("",) * 4
            marks = [_mark(verdicts.get(size)) for size in sizes]
            body.append([*map(_cell, known), _cell(rule, "text"), *marks])
    head = (first, "exponent, 95 % interval", "linear holds", "breaks at", "rule", *map(str, sizes))
    return _table(title, head, body)


def estimate(value: Estimate) -> str:
    """`0.51 (0.45 … 0.56)`."""
    return f"{_number(value.value)} ({_number(value.low)} … {_number(value.high)})"


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _table(title: str, head: Iterable[str], body: Sequence[Sequence[str]]) -> str:
    if not body:
        return ""
    # A column's head stands as its cells do.
    kinds = [' class="text"' if 'class="text' in cell else "" for cell in body[0]]
    columns = "".join(f'<th scope="col"{kind}>{html.escape(name)}</th>' for name, kind in zip(head, kinds, strict=True))
    lines = "\n".join(f"<tr>{''.join(row)}</tr>" for row in body)
    label = html.escape(title)
    return (
        f'<section><h2>{label}</h2><div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>'
        f"<thead><tr>{columns}</tr></thead><tbody>\n{lines}\n</tbody></table></div></section>"
    )


def _cell(text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<td{attribute}>{html.escape(text)}</td>"


def _verdict_cell(text: str) -> str:
    """A cell of the table of batch sizes; where it starts with a verdict, with its mark."""
    verdict = text.split(maxsplit=1)[0] if text.split() else ""
    if verdict not in VERDICTS:
        return _cell(text)
    mark = f'<span aria-hidden="true">{VERDICTS[verdict]}</span>'
    return f'<td class="text verdict {verdict}">{mark} {html.escape(text)}</td>'


def _mark(verdict: str | None) -> str:
    if verdict is None:
        return "<td></td>"
    name = html.escape(verdict)
    mark = f'<span role="img" aria-label="{name}">{VERDICTS.get(verdict, "?")}</span>'
    return f'<td class="mark {name}" title="{name}">{mark}</td>'
