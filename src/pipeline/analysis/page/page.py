"""The answer as one self-contained HTML page: it loads nothing, and shows every run under the pointer."""

import html
import json
import math
from collections.abc import Callable, Sequence
from importlib.resources import files

from pipeline.analysis.figures.axes import objective_label
from pipeline.analysis.figures.map import has_ratio_panel
from pipeline.analysis.figures.registry import draw_figures
from pipeline.analysis.page.inline_svg import inline_svg
from pipeline.analysis.page.tables import batch_table, judged_table, law_table
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import Answer
from pipeline.analysis.text.summary import summary

RunUrl = Callable[[str], str]

HEADINGS = {
    "answer": (
        "Loss over batch size and learning rate",
        "Each batch size's loss above its own best; between batch sizes it is interpolated along the valley. "
        "Where nothing was tried it stays blank.",
    ),
    "losses": (
        "Loss over learning rate, for each batch size",
        "Point at a run or tap it to see what it was; or focus the figure and use the arrow keys.",
    ),
    "regret": (
        "How much worse each rule is than the best",
        "In margins: below the line counts as no difference. Even up to one margin, by factors of two above.",
    ),
    "steps": (
        "Steps to target",
        "On the dashed line twice the batch takes half the steps; above it, a larger batch needs more examples.",
    ),
}
RATIO = (
    " Right: the best learning rate as a multiple of what the linear rule gives; at 1 the rule is exactly right, "
    "and where a bar reaches 1 it is good enough."
)


def render_page(answer: Answer, runs: Sequence[Run], title: str = "", run_url: RunUrl | None = None) -> str:
    """An HTML document with the sentences, the figures, the tables and the questions.

    Args:
        answer: from `pipeline.analysis.stats.answer.analyse`.
        runs: the table it was made from.
        title: what was analysed: a sweep's name, or a file's.
        run_url: from a run's id to its address in MLflow; None where there is none to link to.
    """
    first, *rest = (html.escape(line) for line in summary(answer))
    parts = [
        f'<p class="name">{html.escape(title)}</p><h1>{first}</h1>',
        f"<ul>{''.join(f'<li>{line}</li>' for line in rest)}</ul>",
        *_figures(answer, runs, run_url),
        batch_table(answer),
        _questions(answer),
        law_table(answer),
        judged_table("Verdicts from other batch sizes", "from", answer.other_bases),
        judged_table("Verdicts by other objectives", "objective", answer.objectives),
    ]
    here = files("pipeline.analysis.page")
    style, script = (here.joinpath(name).read_text() for name in ("page.css", "page.js"))
    objective = html.escape(objective_label(answer).split(" (")[0])
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title) or first}</title><style>\n{style}</style></head>\n"
        f'<body data-objective="{objective}"><main>\n{body}\n</main><div id="tip" role="status"></div>\n'
        f'<script type="application/json" id="runs">{_data(runs)}</script>\n<script>\n{script}</script></body></html>\n'
    )


def _figures(answer: Answer, runs: Sequence[Run], run_url: RunUrl | None) -> list[str]:
    def link(number: int) -> str | None:
        run_id = runs[number].run_id
        return None if run_url is None or run_id is None else run_url(run_id)

    parts = []
    for name, figure in draw_figures(answer, runs):
        heading, caption = HEADINGS[name]
        if name == "answer" and has_ratio_panel(answer):
            caption += RATIO
        # One link a run is enough: the script finds it from the other figures too.
        svg = inline_svg(figure, name, f"{heading}. {caption}", link if name == "losses" else lambda number: None)
        if figure.get_figwidth() < 5:
            svg = svg.replace('class="chart"', 'class="chart narrow"', 1)
        parts.append(
            f'<section><h2>{heading}</h2><figure><div class="scroll">{svg}</div>'
            f"<figcaption>{caption}</figcaption></figure></section>"
        )
    return parts


def _questions(answer: Answer) -> str:
    if not answer.questions:
        return ""
    entries = "\n".join(
        f"<dt>{html.escape(q.question)}</dt><dd>{html.escape(q.answer)}</dd>"
        f'<dd class="evidence">{html.escape(q.evidence)}</dd>'
        for q in answer.questions
    )
    return f"<section><h2>Questions</h2><dl>\n{entries}\n</dl></section>"


def _data(runs: Sequence[Run]) -> str:
    """What the page shows of each run, in the order of the table, as JSON that can stand in a script element."""
    rows = [
        [
            *(run.batch, run.lr, run.seed),
            run.value if math.isfinite(run.value) else None,
            *(run.status, run.phase, run.steps),
        ]
        for run in runs
    ]
    return json.dumps(rows, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
