"""Steps to target against batch size: how far a larger batch saves steps (Shallue et al. 2018, arXiv:1811.03600)."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pipeline.analysis.figures.axes import batch_axis, log_axis, objective_label, side_room
from pipeline.analysis.figures.style import BLUE, GREY, INK, PAPER, WIDTH, in_style, new_figure
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import STEPS_TO_TARGET, Answer, BatchResult


@in_style
def steps_figure(answer: Answer, runs: Sequence[Run] = ()) -> Figure | None:
    """Draw the steps to the target at the best LR over the batch size; None if the objective is another one."""
    known = [cell for cell in answer.batches if cell.best_value is not None and cell.best_value > 0]
    if answer.objective != STEPS_TO_TARGET or not known:
        return None
    # [cells, D] draws of the steps at the best LR, or one number without a curve.
    steps_of = [np.exp(cell.curve.at_best()) if cell.curve else np.full(1, cell.best_value) for cell in known]
    draws = np.stack(np.broadcast_arrays(*steps_of))
    low, steps, high = np.quantile(draws, (0.025, 0.5, 0.975), axis=1)
    sizes = np.array([cell.batch for cell in known], dtype=float)
    figure = new_figure(WIDTH / 2, 3.0)
    axes = figure.subplots()
    batch_axis(axes, answer.batches, most=7)
    room = 2 ** side_room(answer.batches)
    line = np.array([sizes[0] / room, answer.batches[-1].batch * room])
    lowest, highest = min(low.min(), steps[0] * sizes[0] / sizes[-1]), max(high.max(), steps[0])
    log_axis(axes, "y", lowest / 1.5, highest * 1.5)
    axes.plot(
        line, steps[0] * sizes[0] / line, ls=(0, (5, 2)), color=GREY, lw=1, label="perfect scaling: steps ∝ 1 / batch"
    )
    # The margin as a share of the steps at the base batch.
    tolerance = answer.margin / answer.base.best_value if answer.margin and answer.base.best_value else 0.0
    ends = perfect_scaling_ends(known, draws, tolerance)
    if ends is not None:
        axes.axvspan(ends[1], line[1], color=GREY, alpha=0.12, lw=0, label=f"past perfect scaling, from {ends[1]}")
    errors = np.abs(np.stack([steps - low, high - steps]))
    found = np.array([cell.best_lr is not None for cell in known])
    for chosen, face, label in ((found, BLUE, "at the best LR, 95 % interval"), (~found, PAPER, "best LR not found")):
        if chosen.any():
            style = {"fmt": "o", "color": BLUE, "mec": INK, "mew": 0.5, "mfc": face, "ms": 4, "capsize": 2}
            axes.errorbar(sizes[chosen], steps[chosen], errors[:, chosen], label=label, **style)  # type: ignore[arg-type]
    axes.set_ylabel(objective_label(answer))
    figure.legend(loc="outside lower center", ncols=1)
    return figure


def perfect_scaling_ends(cells: Sequence[BatchResult], draws: np.ndarray, tolerance: float) -> tuple[int, int] | None:
    """Find the two batch sizes between which a larger batch stops saving steps in proportion; None if it never does.

    From the second one on, steps × batch exceeds that of the smallest batch by more than the share `tolerance` with
    97.5 % probability, at every batch size that was run. `draws` are [cells, D] draws of the steps.
    """
    examples = draws * np.array([cell.batch for cell in cells])[:, None]
    above = np.quantile(examples / examples[0], 0.025, axis=1) > 1 + tolerance
    past = list(itertools.takewhile(lambda i: above[i], range(len(cells) - 1, 0, -1)))
    return (cells[past[-1] - 1].batch, cells[past[-1]].batch) if past else None
