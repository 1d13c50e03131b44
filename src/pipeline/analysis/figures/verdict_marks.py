"""How figures show a verdict: the marker's fill."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pipeline.analysis.figures.style import INK, PAPER

# Told apart without colour.
MARKS = {"holds": ("o", True), "undecided": ("o", False), "breaks": ("x", True), "censored": ("^", False)}
LABELS = {"censored": "outside what was tried"}


def draw(axes: Axes, points: Sequence[tuple[float, float, str]], color: str = INK, size: float = 4.5) -> None:
    """Mark the points (x, y, verdict)."""
    for verdict, (marker, filled) in MARKS.items():
        here = [(x, y) for x, y, its in points if its == verdict]
        if here:
            face = color if filled else PAPER
            width = 1.2 if marker == "x" else 0.9
            axes.plot(*zip(*here, strict=True), marker, ms=size, color=color, mfc=face, mew=width, zorder=5)


def size(number: int) -> float:
    """Points across a marker, of so many side by side."""
    return 4.2 if number <= 20 else 3.0


def legend(verdicts: Iterable[str], color: str = INK) -> list[Line2D]:
    """Legend entries for those of `verdicts` that occur, in a fixed order."""
    found = set(verdicts)
    return [
        Line2D([], [], ls="", marker=m, color=color, mfc=color if filled else PAPER, ms=4.5, label=LABELS.get(v, v))
        for v, (m, filled) in MARKS.items()
        if v in found
    ]
