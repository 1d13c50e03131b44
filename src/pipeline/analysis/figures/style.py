"""What all figures share: palette, style, log-2 axes, and how they are saved; and the curves of one run."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import STEPS_TO_TARGET, Answer, BatchResult

# Okabe & Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
INK, PAPER = "#222222", "#FFFFFF"
# Within the margin, in every figure.
BAND = "#9DC0DE"
# The rules' lines, told apart in grey by their dashes.
RULE_STYLES: Mapping[str, tuple[str, str | tuple[float, tuple[float, ...]]]] = {
    "linear": (VERMILION, "-"),
    "sqrt": (GREEN, (0, (5, 2))),
    "fixed": (INK, (0, (1, 1.5))),
}
# Both columns of a page of a paper, in inches.
WIDTH = 7.0
OBJECTIVES = {
    "val/loss": "validation loss (nats)",
    "train/loss": "training loss (nats)",
    "test/loss": "test loss (nats)",
    "val/error": "validation error (fraction)",
    "train/error": "training error (fraction)",
    "test/error": "test error (fraction)",
    STEPS_TO_TARGET: "steps to target (optimizer steps)",
}
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.4,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    # Text stays text, and the same figure is the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "pipeline",
}
# Decorates each function that draws or saves: no other user of matplotlib in the process is touched.
in_style = rc_context(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` × `height` inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=200)
    FigureCanvasAgg(figure)
    return figure


@in_style
def save(figure: Figure, path: Path) -> list[Path]:
    """Write `figure` as a PNG and as an SVG side by side, whatever `path` ends in; return both paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    figure.savefig(png)
    figure.set_layout_engine("none")  # it is laid out now, and fifty panels take seconds
    svg.write_text(to_svg(figure))
    return [png, svg]


@in_style
def to_svg(figure: Figure) -> str:
    """The figure as SVG; the same figure gives the same text."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


@in_style
def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss and error of one run over its evaluations, into a PNG and an SVG.

    Args:
        rows: each with `epoch` and the metrics `train/loss val/loss train/error val/error`.
        path: file to write.
    """
    figure = new_figure(WIDTH, 2.6)
    epochs = [row["epoch"] for row in rows]
    for position, (measure, label) in enumerate((("loss", "loss (nats)"), ("error", "error (fraction)")), start=1):
        axes = figure.add_subplot(1, 2, position)
        for part, color, marker in (("train", GREY, "s"), ("val", BLUE, "o")):
            values = [row[f"{part}/{measure}"] for row in rows]
            axes.plot(epochs, values, f"{marker}-", color=color, label="validation" if part == "val" else part, ms=3)
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.legend()
    save(figure, path)


def objective_label(answer: Answer) -> str:
    """The objective with its unit, as an axis names it."""
    return OBJECTIVES.get(answer.objective, answer.objective)


def column(cells: Iterable[BatchResult], name: str) -> np.ndarray:
    """One attribute of each cell as floats; what is not known, or infinite, is NaN, which matplotlib leaves out."""
    values = np.array([getattr(cell, name) for cell in cells], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def cell_name(cell: BatchResult, answer: Answer) -> str:
    """`64 *` for the base batch, `256 †` for one that took few steps."""
    return f"{cell.batch}{' *' if cell.batch == answer.base_batch else ''}{' †' if cell.starved else ''}"


def anchor_lr(answer: Answer) -> float | None:
    """The best LR of the base batch, from which the rules start."""
    return next((cell.best_lr for cell in answer.batches if cell.batch == answer.base_batch), None)


def side_room(cells: Sequence[BatchResult]) -> float:
    """Octaves of batch size to leave free on either side of what was run."""
    span = math.log2(cells[-1].batch / cells[0].batch)
    return max(0.35, 0.03 * span) if span else 0.7


def batch_axis(axes: Axes, cells: Sequence[BatchResult], most: int = 10) -> None:
    """A log-2 x-axis with a tick at each batch size that was run, and numbers at no more than `most` of them."""
    sizes = [cell.batch for cell in cells]
    room = 2 ** side_room(cells)
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] / room, sizes[-1] * room)
    apart = math.log2(sizes[-1] / sizes[0]) / most
    # Of many sizes, those that people know get the numbers.
    powers = [size for size in sizes if size & (size - 1) == 0]
    candidates = powers if len(sizes) > most and len(powers) > 3 else sizes
    shown = candidates[:1]
    for size in candidates[1:]:
        if math.log2(size / shown[-1]) > apart * 0.999:
            shown.append(size)
    _fix_ticks(axes.xaxis, shown, [str(size) for size in shown], [size for size in sizes if size not in shown])
    axes.set_xlabel("batch size (examples)")


def log_axis(axes: Axes, which: str, low: float, high: float, most: int = 8) -> None:
    """A log-2 axis from `low` to `high` (both above zero), with ticks at numbers that people read: 0.01, 0.02, 0.05.

    Args:
        axes: whose axis it is.
        which: `x` or `y`.
        low, high: its ends.
        most: numbers to show.
    """
    axes.set(**{f"{which}lim": (low, high)})
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=2)
    ticks, minor = plain_ticks(low, high, most)
    _fix_ticks(axes.xaxis if which == "x" else axes.yaxis, ticks, [plain(tick) for tick in ticks], minor)


def ratio_axis(axes: Axes, low: float, high: float, most: int = 8) -> None:
    """A log-2 y-axis of multiples, with ticks at 1/4, 1/2, 1, 2, 4."""
    axes.set_yscale("log", base=2)
    axes.set_ylim(low, high)
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    step = math.ceil((last - first + 1) / most)
    octaves = [octave for octave in range(first, last + 1) if octave % step == 0]
    labels = [f"{2**octave}" if octave >= 0 else f"1/{2**-octave}" for octave in octaves]
    _fix_ticks(axes.yaxis, [2.0**octave for octave in octaves], labels, [])


def plain_ticks(low: float, high: float, most: int) -> tuple[list[float], list[float]]:
    """Round numbers between `low` and `high`, at most `most` of them, and further ones for ticks without a number."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [
        [
            float(f"{digit}e{decade}")
            for decade in decades
            for digit in digits
            if low <= float(f"{digit}e{decade}") <= high
        ]
        for digits in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
    ]
    for number, ticks in enumerate(found):
        if len(ticks) <= most:
            # Wide axes only: on a narrow one the denser set's numbers are not round enough to be read off a bare tick.
            minor = [tick for tick in found[2] if tick not in ticks] if number > 2 else []
            if len(ticks) >= 2:
                return ticks, minor
            break
    if high / low > 10:
        step = math.ceil(len(found[-1]) / most)
        return found[-1][::step], [tick for tick in found[-1] if tick not in found[-1][::step]]
    return [float(f"{tick:.3g}") for tick in np.geomspace(low, high, 5)[1::2]], []


def plain(value: float) -> str:
    """A number as people write it: 0.0005, 0.02, 3, 2000, 1e-5."""
    if 1e-4 <= abs(value) < 1e6 or value == 0:
        return f"{value:.6f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:.6g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _fix_ticks(axis: Axis, ticks: Sequence[float], labels: Sequence[str], minor: Sequence[float]) -> None:
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FixedFormatter(list(labels)))
    axis.set_minor_locator(FixedLocator(list(minor)) if minor else NullLocator())
    axis.set_minor_formatter(NullFormatter())


def plot_runs(axes: Axes, runs: Sequence[tuple[int, Run]], places: np.ndarray, **style: Any) -> None:
    """Plot runs as markers that the HTML page can tell apart; those without a finite place are left out.

    Args:
        axes: to plot on.
        runs: each with its number in the table, which goes into the markers' group id: `runs-3-14-15`.
        places: [runs, 2] where each stands.
        style: of the markers.
    """
    places = np.reshape(places, (-1, 2))
    shown = np.isfinite(places).all(axis=1)
    if shown.any():
        (line,) = axes.plot(*places[shown].T, ls="", **style)
        line.set_gid("runs-" + "-".join(str(number) for (number, _), fits in zip(runs, shown, strict=True) if fits))
