"""The look that all figures share: palette, fonts, sizes, and how figures are saved."""

import io
import itertools
import logging
import textwrap
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.analysis.stats.results import JUDGED_RULES

# It says where it keeps its cache if it can't write into the home folder.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

# The palette of Okabe & Ito, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
INK, PAPER = "#222222", "#FFFFFF"
# LRs within the margin, in every figure.
BAND = "#9DC0DE"
# Colour and dashes of each judged rule's line. The dashes tell the rules apart in grey.
_LINES = ((VERMILION, "-"), (GREEN, (0, (5, 2))), (INK, (0, (1, 1.5))), (ORANGE, (0, (3, 1, 1, 1))))
RULE_STYLES: dict[str, tuple[str, Any]] = dict(zip(JUDGED_RULES, itertools.cycle(_LINES), strict=False))
# Width in inches of a page of a paper with two columns.
WIDTH = 7.0
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 8),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7),
    **dict.fromkeys(("legend.frameon", "axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("xtick.minor.width", "ytick.minor.width", "hatch.linewidth"), 0.4),
    "lines.linewidth": 1.2,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    # Text stays text in an SVG, and the same figure gives the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "pipeline",
}
# Decorate each function that draws or saves with this. Other users of matplotlib in the process keep their settings.
in_style = rc_context(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of `width` × `height` inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=200)
    FigureCanvasAgg(figure)
    return figure


@in_style
def add_headline(figure: Figure, headline: str) -> None:
    """Write `headline` over `figure`, in three lines at most."""
    characters = 42 if is_narrow(figure) else 86
    lines = textwrap.wrap(headline, characters, max_lines=3, placeholder=" …")
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9, fontweight="bold")


def is_narrow(figure: Figure) -> bool:
    """Return whether `figure` is one column wide, not two."""
    return figure.get_figwidth() < 0.75 * WIDTH


@in_style
def save(figure: Figure, path: Path) -> list[Path]:
    """Write `figure` as a PNG and an SVG, named `path` with the two endings; return both paths."""
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    figure.savefig(png)
    figure.set_layout_engine("none")  # saving the PNG has laid it out; with fifty panels a second time takes seconds
    svg.write_text(to_svg(figure), encoding="utf-8")
    return [png, svg]


@in_style
def to_svg(figure: Figure) -> str:
    """Return the figure as SVG; the same figure gives the same text."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
