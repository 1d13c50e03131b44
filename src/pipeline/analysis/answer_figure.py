"""The answer in one picture: loss over LR for each batch size, and best LR against batch size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from pipeline.analysis.figures import BLUE, GREEN, GREY, ORANGE, VERMILION, new_figure, save
from pipeline.analysis.results import Answer, BatchResult
from pipeline.analysis.table import Run
from pipeline.analysis.verdict import RULES

LINES = {"linear": (ORANGE, "-"), "sqrt": (GREEN, "--"), "fixed": (GREY, ":")}


def draw_answer(answer: Answer, runs: Sequence[Run], path: Path) -> None:
    """Draw the report's figure into a PNG.

    Args:
        answer: from `pipeline.analysis.answer.analyse`.
        runs: the table it was made from.
        path: file to write.
    """
    figure = new_figure(13, 5.4)
    left, right = figure.subplots(1, 2)
    _draw_losses(left, answer, runs)
    _draw_best(right, answer, runs)
    save(figure, path)


def _draw_losses(axes: Axes, answer: Answer, runs: Sequence[Run]) -> None:
    colors = colormaps["viridis"](np.linspace(0, 0.92, len(answer.batches)))
    # Failed runs have no height of their own: they stand in a row above the others.
    top = max((run.value for run in runs if run.usable and run.value > 0), default=1.0) * 1.6
    for cell, color in zip(answer.batches, colors, strict=True):
        here = [run for run in runs if run.batch == cell.batch]
        good, bad = [run for run in here if run.usable], [run for run in here if run.failed]
        axes.plot([r.lr for r in good], [r.value for r in good], "o", color=color, ms=3.5, alpha=0.55, mew=0)
        axes.plot([r.lr for r in bad], [top] * len(bad), "x", color=color, ms=5)
        if cell.curve is not None:
            median = np.exp(np.median(cell.curve.draws, axis=0))
            axes.plot(2**cell.curve.octaves, median, "-", color=color, lw=1.8, label=str(cell.batch))
        if cell.best_lr is not None:
            best = _column([cell], "best_value")
            axes.plot([cell.best_lr], best, "v", color=color, ms=8, mec="black", mew=0.7)
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel=f"{answer.objective} at the end of the budget")
    axes.set_title("Loss over LR; ▼ best, × diverged or stalled", fontsize=11)
    axes.xaxis.set_major_formatter(_plain)
    axes.yaxis.set_major_formatter(_plain)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    _legend(axes, title="batch")


def _draw_best(axes: Axes, answer: Answer, runs: Sequence[Run]) -> None:
    known = [cell for cell in answer.batches if cell.best_lr is not None]
    bands = _column(known, "band_low"), _column(known, "band_high")
    axes.vlines(_column(known, "batch"), *bands, color=BLUE, lw=9, alpha=0.18)
    _draw_estimates(axes, [cell for cell in known if not cell.starved], "best LR, 95 %", BLUE)
    _draw_estimates(axes, [cell for cell in known if cell.starved], "best LR, fewer than 50 steps", "white")
    anchor = next((cell.best_lr for cell in known if cell.batch == answer.base_batch), None)
    if anchor is not None:
        sizes = _column(answer.batches, "batch")
        for rule, (color, style) in LINES.items():
            lrs = anchor * (sizes / answer.base_batch) ** RULES[rule]
            axes.plot(sizes, lrs, style, color=color, label=f"{rule} from {answer.base_batch}")
    failing = [cell for cell in answer.batches if cell.failing_lr is not None]
    lowest = _column(failing, "failing_lr")
    axes.plot(_column(failing, "batch"), lowest, "x", color=VERMILION, label="lowest LR that failed")
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="learning rate")
    if not known:
        tried = [run.lr for run in runs]
        axes.set(xlim=(answer.batches[0].batch / 2, answer.batches[-1].batch * 2), ylim=(min(tried), max(tried) * 1.01))
        axes.text(0.5, 0.5, "too few runs to estimate a best LR", ha="center", transform=axes.transAxes)
    axes.set_title("Best LR against batch size; shaded: within the margin", fontsize=11)
    axes.set_xticks([cell.batch for cell in answer.batches], [str(cell.batch) for cell in answer.batches])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(_plain)
    axes.grid(alpha=0.25)
    _legend(axes)


def _legend(axes: Axes, title: str | None = None) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title=title, frameon=False, fontsize=9)


def _draw_estimates(axes: Axes, cells: Sequence[BatchResult], label: str, face: str) -> None:
    if not cells:
        return
    best = _column(cells, "best_lr")
    errors = np.stack([best - _column(cells, "ci_low"), _column(cells, "ci_high") - best])
    style = {"fmt": "o", "color": BLUE, "mfc": face, "capsize": 3, "ms": 6, "zorder": 3}
    axes.errorbar(_column(cells, "batch"), best, yerr=errors, label=label, **style)  # type: ignore[arg-type]


def _column(cells: Sequence[BatchResult], name: str) -> np.ndarray:
    """One attribute of each cell as floats; what is not known is NaN, which matplotlib leaves out."""
    return np.array([getattr(cell, name) for cell in cells], dtype=float)


@FuncFormatter
def _plain(value: float, position: int | None) -> str:
    """Tick labels as numbers people write: 0.01, not 10⁻²."""
    return f"{value:g}"
