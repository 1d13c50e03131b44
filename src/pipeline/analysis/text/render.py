"""The answer's table as text, a row for each batch size; printed on the screen, or in Markdown for MLflow."""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.analysis.stats.results import JUDGED_RULES, Answer, BatchResult
from pipeline.analysis.text.summary import summary
from pipeline.process.streams import in_encoding

NARROWEST = 80
COLORS = {"holds": "green", "breaks": "red", "diverges": "red", "undecided": "yellow"}


def print_answer(answer: Answer, title: str) -> None:
    """Print the table, the sentences and the questions."""
    console = open_console(file_width=160)
    table = new_table(title)
    head = columns(answer)
    for position, column in enumerate(head):
        is_number = position < len(head) - len(JUDGED_RULES)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows(answer):
        cells = (in_encoding(cell, console.encoding) for cell in row)
        table.add_row(*(Text(cell, style=COLORS.get(cell.partition(" ")[0], "")) for cell in cells))
    console.print(table)
    for line in summary(answer):
        console.print(line)
    for item in answer.questions:
        console.print(Text.assemble(item.question, " ", (item.answer, "bold"), " ", item.evidence))


def to_markdown(answer: Answer) -> str:
    """Write headline, table, sentences and questions in Markdown: the description of a sweep's run in MLflow."""
    head = columns(answer)
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    table += ["| " + " | ".join(row) + " |" for row in rows(answer)]
    first, *rest = summary(answer)
    questions = [f"**{item.question}** {item.answer} {item.evidence}" for item in answer.questions]
    return "\n".join([f"**{first}**", "", *table, "", *(f"- {line}" for line in rest), "", *questions]) + "\n"


def open_console(file_width: int) -> Console:
    """Open standard output; if it is no terminal, lines are `file_width` characters wide."""
    # Text is printed as it is: rich would read brackets in a name as markup.
    console = Console(highlight=False, markup=False, emoji=False)
    # On a narrow terminal a table of as many columns as it has letters would be blank.
    console.width = max(console.width, NARROWEST) if console.is_terminal else file_width
    return console


def new_table(title: str) -> Table:
    """Make an empty table under `title`."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def columns(answer: Answer) -> tuple[str, ...]:
    """Head of the table; the column of test losses is there if any is known."""
    worse = "worse by, 90 %"
    best = ("batch", "best LR", "95 % interval", "tolerates", "stability", "linear's LR", "ratio", "loss at best")
    return (*best, *(("on test",) if _has_test(answer) else ()), "at linear's", worse, *JUDGED_RULES)


def rows(answer: Answer) -> list[tuple[str, ...]]:
    """Cells of the table, as many in each row as `columns` names."""
    return [_row(cell, answer) for cell in answer.batches]


def batch_label(cell: BatchResult, answer: Answer) -> str:
    """Write a batch size as `64 *` for the base batch, `256 †` for one whose runs took few steps."""
    return f"{cell.batch}{' *' if cell.batch == answer.base_batch else ''}{' †' if cell.starved else ''}"


def _has_test(answer: Answer) -> bool:
    return any(cell.test_value is not None for cell in answer.batches)


def _row(cell: BatchResult, answer: Answer) -> tuple[str, ...]:
    linear = cell.rules["linear"]
    verdicts = {name: "diverges" if rule.reason == "diverges" else rule.verdict for name, rule in cell.rules.items()}
    if cell.also_hold and cell.batch != answer.base_batch:
        verdicts["linear"] += " ≈"
    return (
        batch_label(cell, answer),
        _number(cell.best_lr) if cell.best_lr else _beyond(cell),
        "" if cell.ci_low is None or cell.ci_high is None else f"{cell.ci_low:.2g}…{cell.ci_high:.2g}",
        "" if cell.band_octaves is None else f"{'≥ ' if cell.band_is_open else ''}{cell.band_octaves:.1f} oct",
        _stability(cell),
        _number(linear.lr),
        f"{linear.lr / cell.best_lr:.2f}" if math.isfinite(linear.lr) and cell.best_lr else "",
        _number(cell.best_value if linear.best_loss is None else linear.best_loss),
        *((_number(cell.test_value),) if _has_test(answer) else ()),
        _number(linear.loss),
        "" if linear.regret_low is None else _range(linear.regret_low, linear.regret_high),
        *(verdicts[rule] for rule in JUDGED_RULES),
    )


def _beyond(cell: BatchResult) -> str:
    """Write `< 0.1` if the best LR may lie below the lowest one tried, `?` if nothing could be fitted."""
    if cell.curve is None or cell.censored is None:
        return "?"
    sign, end = ("<", 0) if cell.censored == "low" else (">", -1)
    return f"{sign} {_number(float(2 ** cell.curve.octaves[end]), 2)}"


def _stability(cell: BatchResult) -> str:
    """Bracket the stability limit: the lowest LR that fails, and the largest below it."""
    stable, failing = _number(cell.stable_lr, 2), _number(cell.failing_lr, 2)
    if not failing:
        return f"> {stable}" if stable else ""
    return f"{stable}…{failing}" if stable else f"< {failing}"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def _range(low: float, high: float | None) -> str:
    """Write a range of losses, rounded to four decimals: smaller differences mean nothing."""
    return "…".join("∞" if math.isinf(end) else f"{round(end, 4):.2g}" for end in (low, high or 0.0))
