"""What all figures share, drawn without a display; and the curves of one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

# Okabe & Ito's palette: told apart by colour-blind readers too. Line styles and markers differ as well, for grey paper.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
RULE_STYLES = {"linear": (VERMILION, "-", "o"), "sqrt": (GREEN, "--", "s"), "fixed": (GREY, ":", "^")}
# More labels than this on an axis run into each other.
MOST_TICKS = 12
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    # Text stays text in an SVG, and the same figure is the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "pipeline",
}


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss and error of one run over its evaluations, into a PNG.

    Args:
        rows: each with `epoch` and the metrics `train/loss val/loss train/error val/error`.
        path: file to write.
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(8, 3.2)
        epochs = [row["epoch"] for row in rows]
        for position, (measure, label) in enumerate((("loss", "loss (nats)"), ("error", "error (fraction)")), start=1):
            axes = figure.add_subplot(1, 2, position)
            for part, color in (("train", GREY), ("val", BLUE)):
                values = [row[f"{part}/{measure}"] for row in rows]
                axes.plot(epochs, values, "o-", color=color, label="validation" if part == "val" else part, ms=4)
            axes.set(xlabel="epoch", ylabel=label)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def new_figure(width: float, height: float, layout: str = "constrained") -> Figure:
    """An empty figure of `width` × `height` inches, with matplotlib's layout of that name."""
    figure = Figure(figsize=(width, height), layout=layout, dpi=120)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write `figure` as a PNG at `path`, and as an SVG beside it; returns the PNG's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    return path


def batch_axis(axes: Axes, batches: Sequence[int]) -> None:
    """A log-2 axis with the batch sizes that were run, thinned out where there are many."""
    axes.set_xscale("log", base=2)
    step = -(-len(batches) // MOST_TICKS)
    axes.xaxis.set_major_locator(FixedLocator(list(batches)[::step]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(plain)
    axes.set_xlim(min(batches) / 1.6, max(batches) * 1.6)
    axes.set_xlabel("batch size (examples)")


def lr_axis(axes: Axes, vertical: bool = True) -> None:
    """A log axis of learning rates, with numbers people write; octaves are even steps on it."""
    axis = axes.yaxis if vertical else axes.xaxis
    (axes.set_yscale if vertical else axes.set_xscale)("log", base=2)
    axis.set_major_locator(LogLocator(base=2, numticks=9 if vertical else 4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    (axes.set_ylabel if vertical else axes.set_xlabel)("learning rate")


def octave_edges(batches: Sequence[int]) -> np.ndarray:
    """[n + 1] edges of columns around `batches` on a log-2 axis, half way to each neighbour."""
    x = np.log2(np.asarray(batches, dtype=float))
    between = (x[:-1] + x[1:]) / 2
    if len(x) == 1:
        return np.asarray(2.0 ** np.array([x[0] - 0.5, x[0] + 0.5]))
    first, last = 2 * x[0] - between[0], 2 * x[-1] - between[-1]
    return np.asarray(2.0 ** np.array([first, *between, last]))


@FuncFormatter
def plain(value: float, position: int | None) -> str:
    """Tick labels as numbers people write: 0.01, not 10⁻²."""
    return f"{value:g}"
