"""The answer as one self-contained HTML page: figures in which every run can be pointed at, tables, questions."""

import html
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from pipeline.analysis.figures import STYLE
from pipeline.analysis.loss_figure import gid, groups
from pipeline.analysis.render import COLUMNS, rows
from pipeline.analysis.results import Answer, Estimate, Judged, Law
from pipeline.analysis.sentences import summary
from pipeline.analysis.table import Run

CAPTIONS = {
    "answer": "Loss over batch size and learning rate. White bars: learning rates within the margin of the best.",
    "losses": "Loss over learning rate. Point at a run to see it, click to open it in MLflow. Orange: fresh seeds; "
    "crosses: runs that diverged or stalled; line and band: the fitted curve; green: within the margin.",
    "regret": "How much worse than the best each rule's learning rate is.",
    "steps": "Optimizer steps to the target.",
}
_HERE = Path(__file__).parent


def render_page(
    answer: Answer,
    runs: Sequence[Run],
    figures: Mapping[str, Figure],
    title: str = "",
    run_url: Callable[[str], str] | None = None,
) -> str:
    """An HTML document that loads nothing from elsewhere.

    Args:
        answer: what to show.
        runs: the table that it rests on.
        figures: from `pipeline.analysis.pictures.figures_of`.
        title: of the sweep or the table.
        run_url: from an MLflow run's id to its page; None: runs are not linked.
    """
    first, *rest = (html.escape(line) for line in summary(answer))
    with mpl.rc_context(STYLE):
        shown = "".join(
            f'<figure id="{name}">{_svg(figure, name)}<figcaption>{CAPTIONS[name]}</figcaption></figure>'
            for name, figure in figures.items()
        )
    parts = [
        f"<p class=sweep>{html.escape(title)}</p><h1>{first}</h1>",
        "<ul>" + "".join(f"<li>{line}</li>" for line in rest) + "</ul>",
        shown,
        _table("The batch sizes", COLUMNS, rows(answer)),
        _questions(answer),
        _laws(answer.laws),
        _judged("By objective", answer.objectives),
        _judged("From other base batches", answer.anchors),
    ]
    data = json.dumps(_points(answer, runs, run_url), separators=(",", ":")).replace("</", "<\\/")
    style, script = ((_HERE / name).read_text() for name in ("page.css", "page.js"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{first}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body>{''.join(parts)}"
        f'<div id="tip" role="status" hidden></div><script type="application/json" id="points">{data}</script>'
        f"<script>{script}</script></body></html>\n"
    )


def _svg(figure: Figure, name: str) -> str:
    """A figure as an SVG element; ids get the figure's name, since several figures share one page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="(?!runs-)', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(CAPTIONS[name])}" ', 1)


def _points(answer: Answer, runs: Sequence[Run], run_url: Callable[[str], str] | None) -> dict[str, list[list[object]]]:
    """What the page says of each point of the loss figure: by the id of its group, in the order of the points."""
    found: dict[str, list[list[object]]] = {}
    by_batch: dict[int, list[Run]] = {}
    for run in runs:
        by_batch.setdefault(run.batch, []).append(run)
    for batch, here in by_batch.items():
        for kind, drawn in groups(here).items():
            if drawn:
                found[gid(batch, kind)] = [[_describe(run, answer), _link(run, run_url)] for run in drawn]
    return found


def _describe(run: Run, answer: Answer) -> str:
    parts = [f"batch {run.batch}", f"LR {run.lr:.4g}"]
    parts += [f"seed {run.seed}"] if run.seed is not None else []
    parts.append(run.status if run.failed else f"{answer.objective} {run.value:.4g}")
    parts += [f"{run.steps} steps"] if run.steps is not None else []
    return " · ".join([*parts, run.phase])


def _link(run: Run, run_url: Callable[[str], str] | None) -> str | None:
    return run_url(run.run_id) if run_url is not None and run.run_id is not None else None


def _table(caption: str, columns: Iterable[str], body: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    lines = "".join(f"<tr>{''.join(_cell(text) for text in row)}</tr>" for row in body)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    verdict = text.split(maxsplit=1)[0] if text.split() else ""
    kind = f' class="{verdict}"' if verdict in ("holds", "breaks", "diverges", "undecided", "censored") else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def _questions(answer: Answer) -> str:
    items = "".join(
        f"<dt>{html.escape(item.question)}</dt><dd><b>{html.escape(item.answer)}</b> {html.escape(item.evidence)}</dd>"
        for item in answer.questions
    )
    return f"<h2>Four questions</h2><dl>{items}</dl>"


def _laws(laws: Sequence[Law]) -> str:
    if not laws:
        return ""
    body = [
        (law.rule.replace("_", " "), f"{law.weight:.2f}", f"{law.aicc:.1f}", f"{law.misfit:.2g}", _parameters(law))
        for law in laws
    ]
    return _table("Laws for the best learning rate", ("law", "weight", "AICc", "p of misfit", "parameters, 95 %"), body)


def _parameters(law: Law) -> str:
    text = "; ".join(f"{name.replace('_', ' ')} {_interval(value)}" for name, value in law.parameters.items())
    return f"{text} ({law.note})" if law.note else text


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    low, high = (f"{end:.3g}".replace("inf", "∞") for end in (estimate.low, estimate.high))
    return f"{estimate.value:.3g} ({low} … {high})"


def _judged(caption: str, judged: Sequence[Judged]) -> str:
    """Linear's verdicts at each batch size, a row for each objective or base."""
    if not judged:
        return ""
    sizes = list(judged[0].verdicts)
    body = [(item.name, _interval(item.exponent), *(item.verdicts[size] for size in sizes)) for item in judged]
    return _table(f"The linear rule. {caption}", ("", "exponent", *map(str, sizes)), body)
