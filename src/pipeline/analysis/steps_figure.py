"""Steps to a target over the batch size, as in Shallue et al. 2018, arXiv:1811.03600, figure 1."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from pipeline.analysis.figures import BLUE, GREY, batch_axis, new_figure
from pipeline.analysis.results import Answer

# Perfect scaling has ended where halving the steps takes this much more than twice the batch.
ENDS = 1.2


def steps_figure(answer: Answer) -> Figure:
    """The fewest steps at each batch size beside the line of perfect scaling, from the smallest batch on."""
    figure = new_figure(4.6, 3.6)
    axes = figure.subplots()
    known = [cell for cell in answer.batches if cell.best_lr is not None and cell.best_value is not None]
    batches = np.array([cell.batch for cell in known], dtype=float)
    steps = np.array([cell.best_value for cell in known], dtype=float)
    perfect = steps[0] * batches[0] / batches
    axes.plot(batches, perfect, "--", color=GREY, label="perfect scaling")
    axes.plot(batches, steps, "o-", color=BLUE, label="measured, at the best LR")
    if (end := perfect_up_to(answer)) is not None:
        axes.axvline(end, color=GREY, lw=0.8, ls=":")
        axes.text(end, axes.get_ylim()[1], f" perfect up to {end}", va="top", fontsize=8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(LogLocator(base=2))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylabel("optimizer steps to the target")
    batch_axis(axes, [cell.batch for cell in answer.batches])
    axes.grid(alpha=0.2, lw=0.5)
    axes.legend()
    return figure


def perfect_up_to(answer: Answer) -> int | None:
    """The largest batch size up to which steps fall in proportion; None where nothing is known."""
    known = [(cell.batch, cell.best_value) for cell in answer.batches if cell.best_lr is not None and cell.best_value]
    if len(known) < 2:
        return None
    (first, most), last = known[0], known[0][0]
    assert most is not None
    for batch, steps in known[1:]:
        assert steps is not None
        if steps > ENDS * most * first / batch:
            break
        last = batch
    return last
