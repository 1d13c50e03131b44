"""A sampler for one learning rate (LR): it brackets the optimum, then spreads trials around it.

The report estimates where the loss curve has its minimum, and how certain that is. This needs points on both
sides of the minimum, so the sampler spreads them on purpose and doesn't only seek the single best trial.
Positions are in octaves: log2 of the LR.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pipeline.recipe.statuses import FAILED

# Octaves either side of the start that are tried first: a quarter and four times its LR.
FIRST_STEP = 2.0
# Positions around the fitted optimum in octaves, in the order in which they are filled.
SPREAD = (0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5)
# Each point is moved by up to this many octaves. The same LR and seed would repeat the same run, and distinct LRs
# tell more about the curve.
JITTER = 0.2
# Multiples of the golden ratio, modulo 1, fill an interval evenly, however many there are.
GOLDEN_RATIO = 0.6180339887498949
# Points further than this from the best one are left out of the fit: the curve is a parabola only near its minimum.
FIT_OCTAVES = 2.5

Item = TypeVar("Item")


class SpreadSampler(RandomSampler):
    """Try the start (which the sweeper queues), bracket the minimum, then spread trials around the fitted optimum.

    The order is: a quarter of the start's LR and four times it; two octaves further out each time, while the best
    point is the outermost one; then the position near the fitted optimum that has the fewest points, below the
    lowest LR that failed. Running trials count as points. Parameters that are not a float on a log scale are
    sampled at random.

    Args:
        seed: for the parameters that are sampled at random.
    """

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the next value of `param_name`."""
        distribution = param_distribution
        if not isinstance(distribution, FloatDistribution) or not distribution.log:
            return super().sample_independent(study, trial, param_name, distribution)
        points = [
            Point.of(other, param_name)
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and param_name in other.params and other.state is not TrialState.FAIL
        ]
        low, high = math.log2(distribution.low), math.log2(distribution.high)
        octave = next_point(points, low, high, trial.user_attrs.get("replicate"))
        return float(np.clip(2.0**octave, distribution.low, distribution.high))


@dataclass(frozen=True)
class Point:
    """A trial at one position.

    Attributes:
        x: log2 of its LR.
        log_loss: natural logarithm of its loss; None while it runs, and where it has no usable loss.
        seed: the replicate that it trained.
        failed: whether it diverged or stalled.
    """

    x: float
    log_loss: float | None
    seed: object = None
    failed: bool = False

    @classmethod
    def of(cls, trial: FrozenTrial, param_name: str) -> "Point":
        """Take the point from an Optuna trial."""
        failed = trial.user_attrs.get("status") in FAILED
        value = trial.value if trial.state is TrialState.COMPLETE and not failed else None
        log_loss = math.log(value) if value is not None and value > 0 else None
        return cls(math.log2(trial.params[param_name]), log_loss, trial.user_attrs.get("replicate"), failed)


def next_point(points: Sequence[Point], low: float, high: float, seed: object = None) -> float:
    """Return log2 of the LR, between `low` and `high`, that the next trial of `seed` should have."""
    if not points:
        return (low + high) / 2
    lowest_failure = min((p.x for p in points if p.failed), default=math.inf)
    outward = _bracket(points, low, min(high, lowest_failure))
    if outward is not None:
        return outward
    usable = [p for p in points if p.log_loss is not None and p.x < lowest_failure]
    if not usable and lowest_failure < math.inf:
        return max(low, lowest_failure - FIRST_STEP)
    center = _fitted_optimum(usable) if usable else points[0].x
    # A trial at or above the lowest LR that failed would be wasted.
    ceiling = min(high, lowest_failure - 0.25)
    jitter = JITTER * (2 * (len(points) * GOLDEN_RATIO % 1) - 1)
    candidates = [x for offset in SPREAD if low <= (x := center + offset + jitter) <= ceiling]
    if not candidates:
        return min(max(ceiling - FIRST_STEP / 4 + jitter, low), high)
    # Each position gets a run of every seed before any position gets a second run of one seed.
    same_seed = [p for p in points if seed is None or p.seed == seed]
    return min(candidates, key=lambda x: (_count_near(same_seed, x), _count_near(points, x)))


def bin_by_lr(runs: Iterable[Item], log2_lr: Callable[[Item], float]) -> dict[float, list[Item]]:
    """Group runs by log2 of their LR, rounded to a quarter of an octave: runs in one bin count as one LR."""
    bins: dict[float, list[Item]] = {}
    for run in runs:
        bins.setdefault(round(log2_lr(run) * 4) / 4, []).append(run)
    return bins


def _bracket(points: Sequence[Point], low: float, high: float) -> float | None:
    """Return a position further out, or None where trials lie on both sides of the minimum already."""
    start = points[0].x
    for first in (start - FIRST_STEP, start + FIRST_STEP):
        if low <= first <= high and not _count_near(points, first):
            return first
    lowest, highest = min(p.x for p in points), max(p.x for p in points)
    finished = [p for p in points if p.log_loss is not None]
    if not finished:
        # Only a smaller LR can help where trials failed; where none has ended, there is nothing to learn from.
        return max(low, lowest - FIRST_STEP) if any(p.failed for p in points) else None
    best = _best_bin(finished)
    if best <= lowest + 0.25 and best - FIRST_STEP >= low:
        return best - FIRST_STEP
    if best >= highest - 0.25 and best + FIRST_STEP <= high:
        return best + FIRST_STEP
    return None


def _count_near(points: Sequence[Point], x: float) -> int:
    return sum(abs(p.x - x) < 0.25 for p in points)


def _best_bin(points: Sequence[Point]) -> float:
    """Return the position with the lowest mean log loss: the seeds at one LR are pooled."""
    bins = bin_by_lr(points, lambda p: p.x)
    return min(bins, key=lambda x: float(np.mean([p.log_loss for p in bins[x]])))


def _fitted_optimum(points: Sequence[Point]) -> float:
    """Return the minimum of a parabola through the points near the best, with an offset for each seed.

    This is good enough to place points. The report has an estimator of its own.
    """
    best = _best_bin(points)
    near = [p for p in points if abs(p.x - best) <= FIT_OCTAVES]
    if len(bin_by_lr(near, lambda p: p.x)) < 4:
        return best
    x = np.array([p.x for p in near]) - best
    y = np.array([p.log_loss for p in near])
    seeds = sorted({str(p.seed) for p in near})
    offsets = np.array([[str(p.seed) == seed for seed in seeds] for p in near], dtype=float)
    design = np.column_stack([np.ones_like(x), x, x**2, offsets])
    # The ridge penalty holds the offsets near zero: one run of a seed can't tell its offset from the curve.
    ridge = np.diag([1e-6, 1e-6, 1e-6, *[0.5] * len(seeds)])
    _, slope, curvature, *_ = np.linalg.solve(design.T @ design + ridge, design.T @ y)
    if curvature <= 0:
        return best
    return best + float(np.clip(-slope / (2 * curvature), -1.5, 1.5))
