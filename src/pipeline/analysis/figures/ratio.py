"""The best LR as a multiple of linear's: where it is 1, the rule is exactly right."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pipeline.analysis.figures import verdict_marks
from pipeline.analysis.figures.style import (
    BAND,
    BLUE,
    INK,
    RULE_STYLES,
    anchor_lr,
    batch_axis,
    column,
    ratio_axis,
    side_room,
)
from pipeline.analysis.stats.results import JUDGED_RULES, Answer, BatchResult

# Octaves that are shown at least, either side of the rule: nobody should mistake a small difference for a large one.
LEAST = 1.2
LAW = (0, (7, 1.5, 1, 1.5))


def draw(axes: Axes, answer: Answer) -> None:
    """Draw the best LRs, their bands, the rules and the best law, each divided by linear's LR."""
    anchor = anchor_lr(answer)
    assert anchor is not None
    cells = answer.batches
    sizes = column(cells, "batch")
    linear = anchor * sizes / answer.base_batch
    best, low, high = (column(cells, name) / linear for name in ("best_lr", "ci_low", "ci_high"))
    bands = np.stack([column(cells, "band_low"), column(cells, "band_high")]) / linear
    batch_axis(axes, cells, most=7)
    shown = np.concatenate([best, low, high, bands.ravel()])
    shown = np.log2(shown[np.isfinite(shown) & (shown > 0)])
    ratio_axis(axes, 2 ** min(-LEAST, shown.min() - 0.3), 2 ** max(LEAST, shown.max() + 0.3))
    axes.vlines(sizes, *bands, color=BAND, lw=_bar_width(len(cells)))
    _draw_rules(axes, answer)
    if answer.laws:
        law = np.asarray(answer.laws[0].lrs, dtype=float) / linear
        axes.plot(sizes, law, color=BLUE, ls=LAW, lw=1.2, zorder=2)
    axes.vlines(sizes, low, high, color=INK, lw=1, zorder=4)
    marks = zip(sizes, best, (_verdict(cell) for cell in cells), strict=True)
    points = [(size, ratio, verdict) for size, ratio, verdict in marks if np.isfinite(ratio)]
    verdict_marks.draw(axes, points, size=verdict_marks.size(len(cells)))
    axes.set_ylabel("best learning rate ÷ linear's")
    axes.set_title("Best, relative to the linear rule", loc="left")


def legend(answer: Answer) -> list[Line2D]:
    """The entries that this panel adds to the figure's legend."""
    handles = []
    if answer.laws:
        law = answer.laws[0]
        kind = "law" if law.rule == answer.selected_law else f"likeliest law, weight {law.weight:.2f}"
        handles.append(Line2D([], [], color=BLUE, ls=LAW, lw=1.2, label=f"{kind}: {law.rule.replace('_', ' ')}"))
    marks = verdict_marks.legend(_verdict(cell) for cell in answer.batches if cell.best_lr is not None)
    for mark in marks:
        mark.set_label(f"linear: {mark.get_label()}")
    return handles + marks


def _draw_rules(axes: Axes, answer: Answer) -> None:
    room = 2 ** side_room(answer.batches)
    ends = np.array([answer.batches[0].batch / room, answer.batches[-1].batch * room])
    for rule, (color, dashes) in RULE_STYLES.items():
        ratio = (ends / answer.base_batch) ** (JUDGED_RULES[rule] - 1)
        axes.plot(ends, ratio, ls=dashes, color=color, scalex=False, scaley=False, zorder=2)


def _verdict(cell: BatchResult) -> str:
    return cell.rules["linear"].verdict if "linear" in cell.rules else "undecided"


def _bar_width(number: int) -> float:
    """Points; the bars of many batch sizes must not touch."""
    return float(np.clip(90 / number, 1.5, 8))
