"""The right panel of the map: the best LR as a multiple of the linear rule's. At 1 the rule is exactly right."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pipeline.analysis.figures.axes import batch_axis, ratio_axis
from pipeline.analysis.figures.marks import base_lr, column, plot_rules, plot_verdicts, verdict_legend
from pipeline.analysis.figures.style import BAND, BLUE, INK
from pipeline.analysis.stats.results import JUDGED_RULES, Answer, BatchResult

# The axis reaches at least so many octaves either side of 1, so that a small difference looks small.
MIN_OCTAVES = 1.2
LAW_DASHES = (0, (7, 1.5, 1, 1.5))


def draw_ratios(axes: Axes, answer: Answer) -> None:
    """Draw the best LRs, the LRs within the margin, the rules and the best law, each divided by linear's LR."""
    start = base_lr(answer)
    assert start is not None
    cells = answer.batches
    sizes = column(cells, "batch")
    linear = start * sizes / answer.base_batch
    best, low, high = (column(cells, name) / linear for name in ("best_lr", "ci_low", "ci_high"))
    bands = np.stack([column(cells, "band_low"), column(cells, "band_high")]) / linear
    batch_axis(axes, cells, most=7)
    shown = np.concatenate([best, low, high, bands.ravel()])
    octaves = np.log2(shown[np.isfinite(shown) & (shown > 0)])
    ratio_axis(axes, 2 ** min(-MIN_OCTAVES, octaves.min() - 0.3), 2 ** max(MIN_OCTAVES, octaves.max() + 0.3))
    # The bars of many batch sizes must not touch.
    axes.vlines(sizes, *bands, color=BAND, lw=float(np.clip(90 / len(cells), 1.5, 8)))
    plot_rules(axes, answer, exponent=JUDGED_RULES["linear"])
    if answer.laws:
        law = np.asarray(answer.laws[0].lrs, dtype=float) / linear
        axes.plot(sizes, law, color=BLUE, ls=LAW_DASHES, lw=1.2, zorder=2)
    axes.vlines(sizes, low, high, color=INK, lw=1, zorder=4)
    marks = zip(sizes, best, map(_verdict, cells), strict=True)
    plot_verdicts(axes, [(size, ratio, verdict) for size, ratio, verdict in marks if np.isfinite(ratio)])
    axes.set_ylabel("best learning rate ÷ linear's")
    axes.set_title("Best, relative to the linear rule", loc="left")


def ratio_legend(answer: Answer) -> list[Line2D]:
    """Make the entries that this panel adds to the figure's legend."""
    handles = []
    if answer.laws:
        law = answer.laws[0]
        kind = "law" if law.rule == answer.selected_law else f"likeliest law, weight {law.weight:.2f}"
        label = f"{kind}: {law.rule.replace('_', ' ')}"
        handles.append(Line2D([], [], color=BLUE, ls=LAW_DASHES, lw=1.2, label=label))
    verdicts = (_verdict(cell) for cell in answer.batches if cell.best_lr is not None)
    return handles + verdict_legend(verdicts, prefix="linear: ")


def _verdict(cell: BatchResult) -> str:
    return cell.rules["linear"].verdict if "linear" in cell.rules else "undecided"
