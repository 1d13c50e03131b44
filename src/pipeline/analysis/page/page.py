"""The answer as one HTML file that loads nothing: sentences, figures with every run under the pointer, tables."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.analysis.figures.axes import objective_label
from pipeline.analysis.figures.registry import FIGURES, draw_figures
from pipeline.analysis.page.inline_svg import inline_svg
from pipeline.analysis.page.tables import VERDICT_MARKS, batch_table, law_table, sensitivity_table
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import Answer
from pipeline.analysis.text.summary import summary

RunUrl = Callable[[str], str]


def render_page(answer: Answer, runs: Sequence[Run], title: str = "", run_url: RunUrl | None = None) -> str:
    """Fill in the template `page.html`.

    Args:
        answer: from `pipeline.analysis.stats.answer.analyse`.
        runs: the table that `answer` was made from.
        title: what was analysed: a sweep's name, or a file's.
        run_url: from a run's id to its address in MLflow; without it the page has no links.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.analysis.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    headline, *sentences = summary(answer)
    return environment.get_template("page.html").render(
        title=title,
        headline=headline,
        sentences=sentences,
        figures=_figures(answer, runs, run_url),
        batch_table=batch_table(answer),
        questions=answer.questions,
        other_tables=[
            law_table(answer),
            sensitivity_table("Verdicts from other batch sizes", "from", answer.other_bases),
            sensitivity_table("Verdicts by other objectives", "objective", answer.objectives),
        ],
        verdict_marks=VERDICT_MARKS,
        objective=objective_label(answer).split(" (")[0],
        runs=[_run_data(run) for run in runs],
    )


def _figures(answer: Answer, runs: Sequence[Run], run_url: RunUrl | None) -> list[dict[str, str]]:
    def link(number: int) -> str | None:
        run_id = runs[number].run_id
        return None if run_url is None or run_id is None else run_url(run_id)

    figures = []
    for name, figure in draw_figures(answer, runs):
        heading, caption = FIGURES[name].heading, FIGURES[name].full_caption(answer)
        # One link for each run is enough: `page.js` uses it for the other figures too.
        svg = inline_svg(figure, name, f"{heading}. {caption}", link if name == "losses" else None)
        figures.append({"heading": heading, "caption": caption, "svg": svg})
    return figures


def _run_data(run: Run) -> list[Any]:
    """What `page.js` shows of a run, in the order in which `describe` reads it."""
    value = run.value if math.isfinite(run.value) else None
    return [run.batch, run.lr, run.seed, value, run.status, run.phase, run.steps]
