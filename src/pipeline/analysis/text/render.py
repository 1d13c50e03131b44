"""Print the answer on the screen, or write it in Markdown for MLflow."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.analysis.stats.results import JUDGED_RULES, Answer
from pipeline.analysis.text.summary import summary
from pipeline.analysis.text.table import columns, rows

COLORS = {"holds": "green", "breaks": "red", "diverges": "red", "undecided": "yellow"}
# Without a terminal there is no width to follow.
FILE_WIDTH = 160


def print_answer(answer: Answer, title: str, console: Console | None = None) -> None:
    """Print the table, the sentences and the questions.

    Names from a table are printed as they are: rich would read brackets in a plain string as markup.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=FILE_WIDTH)
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    head = columns(answer)
    for position, column in enumerate(head):
        is_number = position < len(head) - len(JUDGED_RULES)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows(answer):
        table.add_row(*(Text(cell, style=COLORS.get(cell.partition(" ")[0], "")) for cell in row))
    console.print(table)
    for line in summary(answer):
        console.print(Text(line))
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
