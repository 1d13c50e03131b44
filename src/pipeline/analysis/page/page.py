"""The answer as one HTML file that loads nothing: sentences, figures with every run under the pointer, tables."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.analysis.figures.axes import objective_label
from pipeline.analysis.figures.registry import FIGURES, draw_figures
from pipeline.analysis.page.inline_svg import inline_svg
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import JUDGED_RULES, Answer, Estimate, SensitivityCheck
from pipeline.analysis.text.render import columns, rows
from pipeline.analysis.text.summary import summary
from pipeline.analysis.text.wording import estimate_text

RunUrl = Callable[[str], str]
VERDICT_MARKS = {"holds": "●", "undecided": "○", "breaks": "×", "diverges": "×", "censored": "△"}


def render_page(answer: Answer, runs: Sequence[Run], title: str = "", run_url: RunUrl | None = None) -> str:
    """Fill in the template `page.html`; `title` says what was analysed.

    Args:
        answer, runs: what `analyse` returned, and the table that it was made from.
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
        batch_table=_batch_table(answer),
        questions=answer.questions,
        other_tables=[
            _law_table(answer),
            _objective_table(answer.objectives),
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


@dataclass(frozen=True)
class PageTable:
    """A table under a heading; one without rows is left out of the page.

    `columns` are from head to kind of cell: `number`, `text`, `verdict` (a mark and words) or `mark` alone.
    """

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[str]]


def _batch_table(answer: Answer) -> PageTable:
    head = {name: "verdict" if name in JUDGED_RULES else "number" for name in columns(answer)}
    return PageTable("Each batch size", head, rows(answer))


def _law_table(answer: Answer) -> PageTable:
    names = ("law", "parameters, 95 % interval", "AIC", "weight", "p of the misfit", "note")
    head = {name: "text" if name.startswith(("parameters", "note")) else "number" for name in names}
    body = []
    for law in answer.laws:
        name = law.rule.replace("_", " ") + (" ✓" if law.rule == answer.selected_law else "")
        parameters = "; ".join(f"{key.replace('_', ' ')} {_estimate(value)}" for key, value in law.parameters.items())
        body.append((name, parameters, f"{law.aic:.1f}", f"{law.weight:.2f}", f"{law.fit_p_value:.2g}", law.note))
    return PageTable("Laws for the best LR", head, body)


def _objective_table(checks: Sequence[SensitivityCheck]) -> PageTable:
    """Make a table of verdicts with a row for each rule by each objective."""
    sizes = sorted({size for check in checks for size in check.verdicts})
    head = dict.fromkeys(("objective", "exponent, 95 % interval", "linear holds", "breaks at"), "number") | {
        "rule": "text"
    }
    head |= {str(size): "mark" for size in sizes}
    body = []
    for check in checks:
        holds = "nowhere" if check.holds_from is None else f"{check.holds_from} … {check.holds_up_to}"
        exponent = "" if check.exponent is None else _estimate(check.exponent)
        about_linear = (check.name, exponent, holds, "" if check.breaks_at is None else str(check.breaks_at))
        for rule, verdicts in {"linear": check.verdicts, **check.others}.items():
            about = about_linear if rule == "linear" else ("",) * 4
            body.append((*about, rule, *(verdicts.get(size, "") for size in sizes)))
    return PageTable("Verdicts by other objectives", head, body)


def _estimate(estimate: Estimate) -> str:
    return estimate_text(estimate, digits=".3g", label="")
