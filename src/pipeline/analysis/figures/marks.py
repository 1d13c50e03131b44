"""How figures show runs, rules and verdicts, and the columns of an answer that they read."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pipeline.analysis.figures.axes import side_room
from pipeline.analysis.figures.style import INK, PAPER, RULE_STYLES
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import JUDGED_RULES, Answer, BatchResult

# Marker of each verdict, and whether it is filled: readable without colour.
VERDICT_MARKS = {"holds": ("o", True), "undecided": ("o", False), "breaks": ("x", True), "censored": ("^", False)}


def plot_runs(axes: Axes, runs: Sequence[tuple[int, Run]], places: np.ndarray, **style: Any) -> None:
    """Plot runs as markers that the HTML page can find again; runs without a finite place are left out.

    Args:
        runs: each with its number in the table. The numbers go into the group id of the markers: `runs-3-14-15`.
        places: [runs, 2], x and y of each.
    """
    places = np.reshape(places, (-1, 2))
    shown = np.isfinite(places).all(axis=1)
    if shown.any():
        (line,) = axes.plot(*places[shown].T, ls="", **style)
        line.set_gid("runs-" + "-".join(str(number) for (number, _), fits in zip(runs, shown, strict=True) if fits))


def plot_rules(axes: Axes, answer: Answer, lr: float = 1.0, exponent: float = 0.0, **style: Any) -> None:
    """Plot each rule's LR, `lr` at the base batch, divided by (batch / base batch)^exponent; limits don't change."""
    room = 2 ** side_room(answer.batches)
    ends = np.array([answer.batches[0].batch / room, answer.batches[-1].batch * room])
    for rule, (color, dashes) in RULE_STYLES.items():
        lrs = lr * (ends / answer.base_batch) ** (JUDGED_RULES[rule] - exponent)
        axes.plot(ends, lrs, ls=dashes, color=color, scalex=False, scaley=False, zorder=2, **style)


def plot_verdicts(axes: Axes, points: Sequence[tuple[float, float, str]], color: str = INK) -> None:
    """Mark points (x, y, verdict); many of them get smaller marks."""
    size = 4.2 if len(points) <= 20 else 3.0
    for verdict, (marker, is_filled) in VERDICT_MARKS.items():
        here = [(x, y) for x, y, found in points if found == verdict]
        if here:
            face = color if is_filled else PAPER
            width = 1.2 if marker == "x" else 0.9
            axes.plot(*zip(*here, strict=True), marker, ms=size, color=color, mfc=face, mew=width, zorder=5)


def verdict_legend(verdicts: Iterable[str], prefix: str = "") -> list[Line2D]:
    """Make legend entries for the verdicts that occur, in a fixed order."""
    occurring = set(verdicts)
    handles = []
    for verdict, (marker, is_filled) in VERDICT_MARKS.items():
        if verdict in occurring:
            label = prefix + ("outside what was tried" if verdict == "censored" else verdict)
            face = INK if is_filled else PAPER
            handles.append(Line2D([], [], ls="", marker=marker, color=INK, mfc=face, ms=4.5, label=label))
    return handles


def column(cells: Iterable[BatchResult], name: str) -> np.ndarray:
    """Return one attribute of each cell as floats; NaN for unknown and infinite ones, which matplotlib leaves out."""
    values = np.array([getattr(cell, name) for cell in cells], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)
