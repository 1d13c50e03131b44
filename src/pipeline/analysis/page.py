"""The answer as one self-contained HTML page."""

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.analysis.answer_figure import draw_answer
from pipeline.analysis.render import COLUMNS, rows, summary
from pipeline.analysis.results import Answer
from pipeline.analysis.table import Run

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em; line-height: 1.3 } table { border-collapse: collapse; margin: 1em 0; width: 100% }
th, td { padding: .35em .6em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th { border-bottom: 2px solid #888; white-space: normal; vertical-align: bottom }
td.holds { color: #00734f } td.breaks, td.diverges { color: #b33c00 } td.undecided, td.censored { color: #8a6d00 }
img { max-width: 100% } li { margin: .2em 0 }
"""


def render_page(answer: Answer, runs: Sequence[Run]) -> str:
    """An HTML document with the sentences, the figure and the table; it loads nothing from elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "answer.png"
        draw_answer(answer, runs, picture)
        data = base64.b64encode(picture.read_bytes()).decode()
    first, *rest = (html.escape(line) for line in summary(answer))
    head = "".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows(answer))
    notes = "".join(f"<li>{line}</li>" for line in rest)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{first}</title>'
        f"<style>{_STYLE}</style></head>"
        f'<body><h1>{first}</h1><img alt="loss over learning rate, and best learning rate against batch size" '
        f'src="data:image/png;base64,{data}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"<ul>{notes}</ul></body></html>\n"
    )


def _cell(text: str) -> str:
    verdict = text.split(maxsplit=1)[0] if text.split() else ""
    kind = f' class="{verdict}"' if verdict in ("holds", "breaks", "diverges", "undecided", "censored") else ""
    return f"<td{kind}>{html.escape(text)}</td>"
