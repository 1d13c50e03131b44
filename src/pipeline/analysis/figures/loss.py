"""Loss over LR, a panel for each batch size: every run, the fitted curve with its band, the LRs within the margin."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline.analysis.figures.axes import log_axis, objective_label
from pipeline.analysis.figures.marks import plot_runs
from pipeline.analysis.figures.style import BAND, BLUE, GREY, INK, ORANGE, VERMILION, WIDTH, in_style, new_figure
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import Answer, BatchResult
from pipeline.analysis.text.render import batch_label

# The scale ends at this multiple of the lowest loss: more would flatten all curves. Runs above stand at its top.
MAX_RATIO = 1000.0
# With more batch sizes than this, a panel does not show the curves of the others behind its own.
MOST_BEHIND = 12
CURVE_BAND = "#C9C9C9"


@dataclass(frozen=True)
class Kind:
    """A kind of run, and how it is drawn: at its loss, or in row `row` above the losses."""

    label: str
    of: Callable[[Run], bool]
    style: dict[str, Any]
    row: int = 0


KINDS = (
    Kind("run", lambda r: r.usable and r.phase != "confirm", {"marker": "o", "color": BLUE, "mew": 0, "alpha": 0.6}),
    Kind(
        "run that confirms",
        lambda r: r.usable and r.phase == "confirm",
        {"marker": "D", "color": ORANGE, "mec": INK, "mew": 0.3},
    ),
    Kind("diverged or stalled", lambda r: r.failed, {"marker": "x", "color": VERMILION, "mew": 0.9}, row=1),
    Kind(
        "no result (pruned, missed, lost …)",
        lambda r: not r.usable and not r.failed,
        {"marker": "+", "color": GREY, "mew": 0.8},
        row=2,
    ),
)


@in_style
def loss_figure(answer: Answer, runs: Sequence[Run]) -> Figure | None:
    """Draw loss over LR; None without runs. The panels share their axes, which shows how the valley moves."""
    if not runs:
        return None
    count = len(answer.batches)
    columns = min(count, next((c for c, most in ((3, 9), (4, 16), (5, 25)) if count <= most), 6))
    rows = math.ceil(count / columns)
    figure, grid = _panels(rows, columns, WIDTH / 2 if count == 1 else WIDTH)
    heights = _Heights.of(runs)
    _scale(grid[0, 0], runs, heights, columns)
    size = float(np.clip(12 / columns, 2, 3.4))
    font_size = 8 if columns < 5 else 7
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    for axes in grid.flat[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("learning rate", fontsize=font_size)
    for axes, cell in zip(grid.flat, answer.batches, strict=False):
        _draw_cell(axes, cell, answer, size)
        numbered = [(number, run) for number, run in enumerate(runs) if run.batch == cell.batch]
        for kind in KINDS:
            here = [(number, run) for number, run in numbered if kind.of(run)]
            row = heights.step(kind.row)
            places = np.array([(run.lr, row if kind.row else min(run.value, heights.top)) for _, run in here])
            plot_runs(axes, here, places, ms=size, zorder=3, **kind.style)
        axes.set_title(f"batch {batch_label(cell, answer)}", loc="left", pad=3, fontsize=font_size)
    figure.supylabel(objective_label(answer), fontsize=8, x=0.03 / figure.get_figwidth())
    ncols = 2 if count == 1 else 4
    figure.legend(handles=_legend(answer, runs), loc="lower center", ncols=ncols, columnspacing=1.5)
    return figure


def _panels(rows: int, columns: int, width: float) -> tuple[Figure, np.ndarray]:
    """Make a grid of axes, placed in inches: a layout engine takes seconds for fifty panels."""
    left, right, top, bottom, between = 0.62, 0.1, 0.24, 0.95, 0.3
    panel = (width - left - right) / columns * (0.72 if columns <= 3 else 0.85)
    height = rows * (panel + between) - between + top + bottom
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    room = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": bottom / height}
    spaces = {"wspace": 0.1, "hspace": between / panel}
    return figure, figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, gridspec_kw=room | spaces)


@dataclass(frozen=True)
class _Heights:
    """The heights at which runs stand: at their value, or in a row above. A loss of zero makes the axis linear."""

    low: float
    top: float
    is_log: bool

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "_Heights":
        values = [run.value for run in runs if run.usable]
        if not values:
            return cls(1.0, 2.0, True)
        low, high = min(values), max(values)
        if low <= 0:
            return cls(low, max(high, low + 1e-9 + abs(low) * 1e-3), False)
        return cls(low, max(min(high, MAX_RATIO * low), 1.2 * low), True)

    def step(self, steps: float) -> float:
        """Return the height `steps` twelfths of the scale above its top, or below its bottom if negative."""
        start = self.top if steps > 0 else self.low
        if self.is_log:
            return start * (self.top / self.low) ** (steps / 12)
        return start + (self.top - self.low) * steps / 12


def _scale(axes: Axes, runs: Sequence[Run], heights: _Heights, columns: int) -> None:
    lrs = [run.lr for run in runs if math.isfinite(run.lr)]
    log_axis(axes, "x", min(lrs) / 2**0.5, max(lrs) * 2**0.5, most=max(3, 9 - columns))
    highest = heights.step(max(kind.row for kind in KINDS if kind.row == 0 or any(map(kind.of, runs))) + 0.7)
    if heights.is_log:
        log_axis(axes, "y", heights.step(-0.7), highest, most=6)
    else:
        axes.set_ylim(heights.step(-0.7), highest)
    if not any(run.usable for run in runs):
        axes.set_yticks([])  # there are only rows of failed runs, no losses
        axes.set_yticks([], minor=True)


def _draw_cell(axes: Axes, cell: BatchResult, answer: Answer, size: float) -> None:
    """Draw everything but the runs: the curves, the LRs within the margin, the best LR with its interval."""
    if cell.band_low is not None and cell.band_high is not None:
        axes.axvspan(cell.band_low, cell.band_high, color=BAND, alpha=0.35, lw=0, zorder=0)
    if len(answer.batches) <= MOST_BEHIND:
        for other in answer.batches:
            if other.curve is not None and other is not cell:
                median = np.exp(np.median(other.curve.draws, axis=0))
                axes.plot(2**other.curve.octaves, median, color=GREY, alpha=0.35, lw=0.5, zorder=1)
    if cell.curve is not None:
        low, median, high = np.exp(np.quantile(cell.curve.draws, (0.025, 0.5, 0.975), axis=0))
        # Every second point, one in an eighth of an octave, draws the same line in half the bytes.
        thin = np.unique(np.append(np.arange(0, len(median), 2), len(median) - 1))
        lrs = 2 ** cell.curve.octaves[thin]
        axes.fill_between(lrs, low[thin], high[thin], color=CURVE_BAND, alpha=0.8, lw=0, zorder=1.5)
        axes.plot(lrs, median[thin], color=INK, lw=1.1, zorder=2)
    if cell.best_lr is not None and cell.best_value is not None:
        ends = [[cell.best_lr - (cell.ci_low or cell.best_lr)], [(cell.ci_high or cell.best_lr) - cell.best_lr]]
        style = {"color": INK, "marker": "v", "ms": size + 1.5, "mfc": "white", "mew": 0.8, "elinewidth": 0.8}
        axes.errorbar([cell.best_lr], [cell.best_value], xerr=ends, capsize=1.5, zorder=4, **style)  # type: ignore[arg-type]


def _legend(answer: Answer, runs: Sequence[Run]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], ls="", label=kind.label, ms=3.4, **kind.style) for kind in KINDS if any(map(kind.of, runs))
    ]
    cells = answer.batches
    if any(cell.curve is not None for cell in cells):
        handles.append(Line2D([], [], color=INK, lw=1.1, label="fitted median"))
        handles.append(Patch(fc=CURVE_BAND, alpha=0.8, label="its 95 % band"))
        if 1 < len(cells) <= MOST_BEHIND:
            handles.append(Line2D([], [], color=GREY, alpha=0.35, lw=0.8, label="other batch sizes"))
    if any(cell.best_lr is not None for cell in cells):
        handles.append(Line2D([], [], color=INK, marker="v", mfc="white", ms=5, lw=0.8, label="best LR, 95 % interval"))
    if any(cell.band_low is not None for cell in cells):
        handles.append(Patch(fc=BAND, alpha=0.35, label="within the margin of the best"))
    return handles
