"""Figures, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from pipeline.analysis.answer import Answer
from pipeline.analysis.table import Run

# Okabe & Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss and error of one run over its evaluations, into a PNG.

    Args:
        rows: each with `epoch` and the metrics `train/loss val/loss train/error val/error`.
        path: file to write.
    """
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
        axes.legend(frameon=False)
    save(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` × `height` inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write `figure` to `path` as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_answer(answer: Answer, runs: Sequence[Run], path: Path) -> None:
    """The report's figure, into a PNG: loss over LR for each batch size, and best LR against batch size.

    Args:
        answer: from `pipeline.analysis.answer.analyse`.
        runs: the table it was made from.
        path: file to write.
    """
    figure = new_figure(13, 5.4)
    left, right = figure.subplots(1, 2)
    _draw_losses(left, answer, runs)
    _draw_best(right, answer)
    save(figure, path)


def _draw_losses(axes: Axes, answer: Answer, runs: Sequence[Run]) -> None:
    colors = colormaps["viridis"](np.linspace(0, 0.92, len(answer.batches)))
    usable = [run.value for run in runs if run.usable and run.value > 0]
    top = max(usable, default=1.0) * 1.6
    for cell, color in zip(answer.batches, colors, strict=True):
        here = [run for run in runs if run.batch == cell.batch]
        good, bad = [run for run in here if run.usable], [run for run in here if run.failed]
        axes.plot([r.lr for r in good], [r.value for r in good], "o", color=color, ms=3.5, alpha=0.55, mew=0)
        axes.plot([r.lr for r in bad], [top] * len(bad), "x", color=color, ms=5)
        if cell.curve is not None:
            curve = np.exp(np.median(cell.curve.draws, axis=0))
            axes.plot(2**cell.curve.octaves, curve, "-", color=color, lw=1.8, label=str(cell.batch))
        if cell.best_lr is not None:
            axes.plot([cell.best_lr], [cell.best_value], "v", color=color, ms=8, mec="black", mew=0.7)
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel=f"{answer.objective} at the end of the budget")
    axes.set_title("Loss over LR; ▼ best, × diverged or stalled", fontsize=11)
    axes.xaxis.set_major_formatter(_plain)
    axes.yaxis.set_major_formatter(_plain)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.legend(title="batch", frameon=False, fontsize=9)


def _draw_best(axes: Axes, answer: Answer) -> None:
    known = [cell for cell in answer.batches if cell.best_lr is not None]
    for cell in known:
        if cell.band_low is not None:
            axes.plot([cell.batch] * 2, [cell.band_low, cell.band_high], color=BLUE, lw=9, alpha=0.18, solid_capstyle="butt")
    for starved, face in ((False, BLUE), (True, "white")):
        shown = [cell for cell in known if cell.starved == starved]
        if not shown:
            continue
        best = np.array([cell.best_lr for cell in shown], dtype=float)
        errors = [best - [c.ci_low for c in shown], [c.ci_high for c in shown] - best]
        label = "best LR, 95 %" if not starved else "best LR, fewer than 50 steps"
        axes.errorbar([c.batch for c in shown], best, yerr=errors, fmt="o", color=BLUE, mfc=face, capsize=3, ms=6, label=label, zorder=3)
    anchor = next((cell.best_lr for cell in known if cell.batch == answer.base_batch), None)
    if anchor is not None:
        sizes = np.array([cell.batch for cell in answer.batches], dtype=float)
        for name, power, color, style in (("linear", 1.0, ORANGE, "-"), ("sqrt", 0.5, GREEN, "--"), ("fixed", 0.0, GREY, ":")):
            axes.plot(sizes, anchor * (sizes / answer.base_batch) ** power, style, color=color, label=f"{name} from {answer.base_batch}")
    failing = [cell for cell in answer.batches if cell.failing_lr is not None]
    if failing:
        axes.plot([c.batch for c in failing], [c.failing_lr for c in failing], "x", color="#D55E00", label="lowest LR that failed")
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="learning rate")
    axes.set_title("Best LR against batch size; shaded: within the margin", fontsize=11)
    axes.set_xticks([cell.batch for cell in answer.batches], [str(cell.batch) for cell in answer.batches])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(_plain)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


@FuncFormatter
def _plain(value: float, position: int | None) -> str:
    """Tick labels as numbers people write: 0.01, not 10⁻²."""
    return f"{value:g}"
