"""Print the answer on the screen, or write it in Markdown for MLflow; and what all commands print with."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.analysis.stats.results import JUDGED_RULES, Answer
from pipeline.analysis.text.summary import summary
from pipeline.analysis.text.table import columns, rows

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
        table.add_row(*(Text(cell, style=COLORS.get(cell.partition(" ")[0], "")) for cell in row))
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
    if not console.is_terminal:
        console.width = file_width
    return console


def new_table(title: str) -> Table:
    """Make an empty table under `title`."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
