"""The answer in one picture: loss over batch size and LR, with the best LRs, the rules' lines and where runs fail."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.analysis.figures import RULE_STYLES, VERMILION, batch_axis, lr_axis, new_figure, octave_edges
from pipeline.analysis.results import RULES, Answer, BatchResult
from pipeline.analysis.table import Run

# Losses from this many times the best on look the same: the map is about what lies near it.
WORST = 1.5
ROWS = 240


def map_figure(answer: Answer, runs: Sequence[Run], title: str) -> Figure:
    """Loss relative to each batch size's best, as a map over (batch, LR).

    Args:
        answer: what to show.
        runs: give the range of LRs.
        title: in one sentence what there is to see.
    """
    figure = new_figure(6.8, 4.6)
    axes = figure.subplots()
    batches = [cell.batch for cell in answer.batches]
    edges = octave_edges(batches)
    tried = [run.lr for run in runs]
    low, high = min(tried) / 1.2, max(tried) * 1.2
    rows = np.geomspace(low, high, ROWS)
    middles = np.sqrt(rows[:-1] * rows[1:])
    losses = np.ma.masked_invalid(np.column_stack([_relative(cell, middles) for cell in answer.batches]))
    if losses.count():
        # Dark where it is good: the ridge is seen in grey too.
        mesh = axes.pcolormesh(edges, rows, losses, cmap="cividis", vmin=1, vmax=WORST, rasterized=True)
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, extend="max", ticks=[1, 1.1, 1.2, 1.3, 1.4, 1.5])
        bar.set_label(f"{answer.objective} / best at that batch size")
    for cell, left, right in zip(answer.batches, edges[:-1], edges[1:], strict=True):
        _draw_column(axes, cell, left, right, high)
    _draw_rules(axes, answer)
    batch_axis(axes, batches)
    axes.set_xlim(edges[0], edges[-1])
    lr_axis(axes)
    axes.set_ylim(low, high)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    else:
        axes.text(0.5, 0.5, "too few runs to estimate a best LR", ha="center", transform=axes.transAxes)
    axes.set_title("\n".join(textwrap.wrap(title, 78)), loc="left", fontsize=9.5)
    return figure


def _relative(cell: BatchResult, rows: np.ndarray) -> np.ndarray:
    """Median loss at each LR divided by the best; NaN where no curve was fitted."""
    curve = cell.curve
    if curve is None:
        return np.full(len(rows), np.nan)
    median = np.median(curve.draws, axis=0)
    return np.asarray(np.exp(np.interp(np.log2(rows), curve.octaves, median - median.min(), np.nan, np.nan)))


def _draw_column(axes: Axes, cell: BatchResult, left: float, right: float, high: float) -> None:
    """What is known of one batch size, between its edges."""
    named = axes.get_legend_handles_labels()[1]
    if cell.failing_lr is not None:
        name = "a run failed here or below"
        style = {"hatch": "////", "fill": False, "ec": VERMILION, "lw": 0}
        axes.add_patch(Rectangle((left, cell.failing_lr), right - left, max(high - cell.failing_lr, 0), **style))  # type: ignore[arg-type]
        axes.hlines(cell.failing_lr, left, right, color=VERMILION, lw=1.2, label=_once(name, named))
    if cell.best_lr is None:
        if cell.censored and cell.curve is not None:
            end, marker = (0, "v") if cell.censored == "low" else (-1, "^")
            axes.plot(cell.batch, 2 ** cell.curve.octaves[end], marker, color="white", mec="black", ms=7)
        return
    if cell.band_low is not None and cell.band_high is not None:
        name = "within the margin of the best"
        band = {"color": "0.8", "lw": 4.5, "alpha": 0.6, "label": _once(name, named)}
        axes.vlines(cell.batch, cell.band_low, cell.band_high, **band)  # type: ignore[arg-type]
    name = "best LR, 95 %"
    errors = None
    if cell.ci_low is not None and cell.ci_high is not None:
        errors = [[cell.best_lr - cell.ci_low], [cell.ci_high - cell.best_lr]]
    face = "0.7" if cell.starved else "white"
    style = {"fmt": "o", "color": "black", "mfc": face, "ms": 5, "capsize": 2.5, "lw": 1.2, "zorder": 5}
    axes.errorbar(cell.batch, cell.best_lr, yerr=errors, label=_once(name, named), **style)  # type: ignore[arg-type]


def _once(name: str, named: Sequence[str]) -> str:
    """A legend's entry for the first that is drawn; the others get none."""
    return "_nolegend_" if name in named else name


def _draw_rules(axes: Axes, answer: Answer) -> None:
    anchor = next((cell.best_lr for cell in answer.batches if cell.batch == answer.base_batch), None)
    if anchor is None or len(answer.batches) < 2:
        return
    sizes = np.array([cell.batch for cell in answer.batches], dtype=float)
    for rule, (color, style, _) in RULE_STYLES.items():
        lrs = anchor * (sizes / answer.base_batch) ** RULES[rule]
        axes.plot(sizes, lrs, style, color="white", lw=2.8, alpha=0.75)
        axes.plot(sizes, lrs, style, color=color, lw=1.5, label=f"{rule} from {answer.base_batch}")
