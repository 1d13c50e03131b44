"""Loss over LR at each batch size: every run, the fitted curve with its band, and the best."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pipeline.analysis.figures import BLUE, GREEN, ORANGE, VERMILION, lr_axis, new_figure, plain
from pipeline.analysis.results import Answer, BatchResult
from pipeline.analysis.table import CONFIRM, Run

COLUMNS = 4
# The groups of points in a panel, in the order in which they are drawn: (gid, marker, colour).
KINDS = {"search": ("o", BLUE), "confirm": ("D", ORANGE), "failed": ("x", VERMILION)}


def loss_figure(answer: Answer, runs: Sequence[Run]) -> Figure:
    """A panel a batch size, all on the same axes; failed runs stand in a row on top."""
    columns = min(COLUMNS, len(answer.batches))
    rows = math.ceil(len(answer.batches) / columns)
    width, height = max(3.2, 2.4 * columns), max(2.6, 1.9 * rows + 0.4)
    # By hand: matplotlib's own layout of fifty panels takes ten seconds.
    figure = new_figure(width, height, layout="none")
    figure.subplots_adjust(
        left=0.6 / width, right=1 - 0.1 / width, bottom=0.6 / height, top=1 - 0.25 / height, wspace=0.08, hspace=0.42
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    values = [run.value for run in runs if run.usable and run.value > 0]
    top = max(values, default=1.0) * 1.5
    for axes, cell in zip(panels.flat, answer.batches, strict=False):
        _draw_panel(axes, cell, [run for run in runs if run.batch == cell.batch], top)
    for number, axes in enumerate(panels.flat):
        if number >= len(answer.batches):
            axes.set_visible(False)
        elif number + columns >= len(answer.batches):
            axes.tick_params(labelbottom=True)  # the lowest of its column
    # The panels share both axes.
    panels[0, 0].set_xlim(min(run.lr for run in runs) / 1.5, max(run.lr for run in runs) * 1.5)
    lr_axis(panels[0, 0], vertical=False)
    panels[0, 0].set_xlabel("")
    low, high = min(values, default=0.1) / 1.15, top * 1.25
    panels[0, 0].set_yscale("log")
    panels[0, 0].set_ylim(low, high)
    panels[0, 0].yaxis.set_major_locator(FixedLocator(_round_numbers(low, high)))
    panels[0, 0].yaxis.set_minor_locator(NullLocator())
    panels[0, 0].yaxis.set_major_formatter(plain)
    figure.supxlabel("learning rate", fontsize=9, y=0.1 / height, va="bottom")
    figure.supylabel(f"{answer.objective} at the end of the budget", fontsize=9, x=0.1 / width, ha="left")
    return figure


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that are drawn, by kind and in the order of their points; what is neither usable nor failed isn't."""
    drawn = [run for run in runs if run.failed or (run.usable and run.value > 0)]
    kinds: dict[str, list[Run]] = {kind: [] for kind in KINDS}
    for run in drawn:
        kinds["failed" if run.failed else CONFIRM if run.phase == CONFIRM else "search"].append(run)
    return kinds


def gid(batch: int, kind: str) -> str:
    """The id of a group of points in the SVG: the page finds its runs by it."""
    return f"runs-{batch}-{kind}"


def _draw_panel(axes: Axes, cell: BatchResult, runs: Sequence[Run], top: float) -> None:
    if cell.band_low is not None and cell.band_high is not None:
        axes.axvspan(cell.band_low, cell.band_high, color=GREEN, alpha=0.12, lw=0)
    if cell.failing_lr is not None:
        axes.axvline(cell.failing_lr, color=VERMILION, lw=0.8, ls=":")
    for kind, found in groups(runs).items():
        if not found:
            continue
        marker, color = KINDS[kind]
        values = [top if kind == "failed" else run.value for run in found]
        size = {"search": 9, "confirm": 12, "failed": 22}[kind]
        points = axes.scatter([run.lr for run in found], values, s=size, marker=marker, color=color, alpha=0.7, lw=0.9)
        points.set_gid(gid(cell.batch, kind))
        if marker != "x":
            points.set_linewidth(0)
    if cell.curve is not None:
        low, median, high = np.exp(np.quantile(cell.curve.draws, (0.025, 0.5, 0.975), axis=0))
        lrs = 2**cell.curve.octaves
        axes.fill_between(lrs, low, high, color="black", alpha=0.15, lw=0)
        axes.plot(lrs, median, color="black", lw=1.2)
    if cell.best_lr is not None and cell.best_value is not None:
        axes.plot(cell.best_lr, cell.best_value, "v", color="black", ms=6, mec="white", mew=0.6)
    axes.set_title(f"batch {cell.batch}{' (few steps)' if cell.starved else ''}")
    axes.grid(alpha=0.2, lw=0.5)


def _round_numbers(low: float, high: float) -> list[float]:
    """Numbers for a log axis: 1, 2, 3 and 5 times powers of ten; fewer over many decades."""
    steps = (1, 2, 3, 5) if high < 50 * low else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
