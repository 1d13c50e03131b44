"""The terminal and the tables that all commands of the analysis print with."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def open_console(file_width: int) -> Console:
    """Open standard output; if it is no terminal, lines are `file_width` characters wide.

    Text is printed as it is: rich would read brackets in a name as markup.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = file_width
    return console


def new_table(title: str) -> Table:
    """Make an empty table under `title`."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
