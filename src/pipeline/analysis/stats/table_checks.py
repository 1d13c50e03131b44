"""What a table of runs may mislead about: accuracies instead of errors, and single runs instead of repetitions."""

import math
from collections.abc import Sequence

import numpy as np

from pipeline.analysis.runs import CONFIRM, Run

# The names of what was found; `pipeline.analysis.text.summary` has the sentences.
UPSIDE_DOWN, ONE_RUN_EACH = "upside down", "one run at each LR"
# A curve shows which way is up from so many LRs on.
FEWEST_LRS = 4


def check_table(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the names of what was found in a table of runs."""
    searched = [run for run in runs if run.usable and run.phase != CONFIRM]
    by_lr: dict[int, dict[float, list[float]]] = {}
    for run in searched:
        by_lr.setdefault(run.batch, {}).setdefault(run.lr, []).append(run.value)
    found = []
    curves = [[float(np.mean(lrs[lr])) for lr in sorted(lrs)] for lrs in by_lr.values() if len(lrs) >= FEWEST_LRS]
    if curves and all(map(_has_peak, curves)) and all(0 <= run.value <= 100 for run in searched):
        found.append(UPSIDE_DOWN)
    is_single = all(len(values) == 1 for lrs in by_lr.values() for values in lrs.values())
    is_mean = any(run.n is not None and run.n > 1 for run in searched)
    if searched and is_single and not is_mean and len({run.seed for run in searched}) == 1:
        found.append(ONE_RUN_EACH)
    return tuple(found)


def _has_peak(curve: Sequence[float]) -> bool:
    """Whether the highest value is in the middle and the lowest at an end, as of accuracies over the LR.

    Losses have their lowest value in the middle. Where they only fall or rise, the highest is at the other end.
    """
    inside = curve[1:-1]
    return min(curve) == min(curve[0], curve[-1]) and math.isclose(max(curve), max(inside))
