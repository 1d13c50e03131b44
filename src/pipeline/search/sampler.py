"""A sampler for one learning rate: bracket the optimum, then spread points around it.

What a study needs is not its single best trial but a loss curve that is well known around its minimum, so
that the minimum's position can be estimated with an interval. The points are therefore spread on purpose.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pipeline.search.lr_bins import bin_by_lr

# Octaves either side of the start that are tried first: a quarter and four times its LR.
FIRST_STEP = 2.0
# Where points are put around the fitted optimum, in octaves, in the order in which they are filled up.
SPREAD = (0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5)
# Each point is moved by up to this many octaves, so that none repeats another: the same LR and seed would give
# the very same run again, and two places tell more about a curve than one.
JITTER = 0.2
GOLDEN_RATIO = 0.6180339887498949
# Points further than this from the best one don't shape the fit: the curves are no parabolas.
FIT_OCTAVES = 2.5
FAILED = ("diverged", "stalled")


class SpreadSampler(RandomSampler):
    """Start where the study starts, bracket the minimum, then spread trials around the fitted optimum.

    The order is: the start (queued by the sweeper), a quarter and four times it; further out, two octaves at
    a time, while the best point is the outermost; then wherever around the pooled fit the fewest points lie,
    below the lowest LR that failed. Trials that are still running count as points. Other parameters
    than one float on a log scale are sampled at random.

    Args:
        seed: for those other parameters.
    """

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The next value of `param_name`."""
        distribution = param_distribution
        if not isinstance(distribution, FloatDistribution) or not distribution.log:
            return super().sample_independent(study, trial, param_name, distribution)
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number and param_name in t.params]
        points = [Point.of(t, param_name) for t in others if t.state is not TrialState.FAIL]
        low, high = math.log2(distribution.low), math.log2(distribution.high)
        octave = next_point(points, low, high, trial.user_attrs.get("replicate"))
        return float(np.clip(2.0**octave, distribution.low, distribution.high))


class Point:
    """A trial as the search sees it: log2 of the LR, and its loss if it has one and did not fail."""

    def __init__(self, x: float, loss: float | None, seed: object = None, failed: bool = False) -> None:
        self.x = x
        self.loss = loss
        self.seed = seed
        self.failed = failed

    @classmethod
    def of(cls, trial: FrozenTrial, name: str) -> "Point":
        failed = trial.user_attrs.get("status") in FAILED
        usable = trial.state is TrialState.COMPLETE and not failed and trial.value is not None and trial.value > 0
        loss = math.log(trial.value) if usable else None  # type: ignore[arg-type]
        return cls(math.log2(trial.params[name]), loss, trial.user_attrs.get("replicate"), failed)


def next_point(points: Sequence[Point], low: float, high: float, seed: object = None) -> float:
    """Where to put the next trial, one of `seed`, in log2 LR between `low` and `high`."""
    if not points:
        return (low + high) / 2
    failing = min((p.x for p in points if p.failed), default=math.inf)
    outward = _bracket(points, low, min(high, failing))
    if outward is not None:
        return outward
    usable = [p for p in points if p.loss is not None and p.x < failing]
    if not usable and failing < math.inf:
        return max(low, failing - FIRST_STEP)
    center = _fitted_optimum(usable) if usable else points[0].x
    # What lies at or above the lowest failure is wasted.
    ceiling = min(high, failing - 0.25)
    # The multiples of the golden ratio, modulo 1, fill an interval evenly however many there are.
    jitter = JITTER * (2 * (len(points) * GOLDEN_RATIO % 1) - 1)
    candidates = [x for offset in SPREAD if low <= (x := center + offset + jitter) <= ceiling]
    if not candidates:
        return min(max(ceiling - FIRST_STEP / 4 + jitter, low), high)
    return min(candidates, key=lambda x: (_beside(points, x, seed), _beside(points, x)))


def _bracket(points: Sequence[Point], low: float, high: float) -> float | None:
    """A point further out, while the minimum isn't bracketed by what was tried or is being tried; else None."""
    start = points[0].x
    tried = [p.x for p in points]
    for first in (start - FIRST_STEP, start + FIRST_STEP):
        if low <= first <= high and not _near(tried, first):
            return first
    done = [p for p in points if p.loss is not None]
    if not done:
        # All have failed, or none has ended: only a smaller LR can help.
        return max(low, min(tried) - FIRST_STEP) if any(p.failed for p in points) else None
    best = min(_mean_by_place(done).items(), key=lambda item: item[1])[0]
    if best <= min(tried) + 0.25 and best - FIRST_STEP >= low:
        return best - FIRST_STEP
    if best >= max(tried) - 0.25 and best + FIRST_STEP <= high:
        return best + FIRST_STEP
    return None


def _beside(points: Sequence[Point], x: float, seed: object = None) -> int:
    """How many points, of one seed or of all, lie within a quarter of an octave of `x`."""
    return sum(abs(p.x - x) < 0.25 and (seed is None or p.seed == seed) for p in points)


def _near(tried: Sequence[float], x: float) -> bool:
    return any(abs(other - x) < 0.25 for other in tried)


def _mean_by_place(points: Sequence[Point]) -> Mapping[float, float]:
    """Mean log loss of the points in each quarter of an octave: seeds at one LR are pooled."""
    return {x: float(np.mean([p.loss for p in group])) for x, group in bin_by_lr(points, lambda p: p.x).items()}


def _fitted_optimum(points: Sequence[Point]) -> float:
    """The minimum of a parabola through the points near the best, with an offset for each seed.

    Good enough to place points by, and no more: the report estimates the optimum otherwise.
    """
    means = _mean_by_place(points)
    best = min(means, key=lambda x: means[x])
    near = [p for p in points if abs(p.x - best) <= FIT_OCTAVES]
    if len({round(p.x * 4) for p in near}) < 4:
        return best
    x = np.array([p.x for p in near]) - best
    y = np.array([p.loss for p in near])
    seeds = sorted({str(p.seed) for p in near})
    offsets = np.array([[str(p.seed) == seed for seed in seeds] for p in near], dtype=float)
    design = np.column_stack([np.ones_like(x), x, x**2, offsets])
    # A ridge on the offsets only: a seed that was drawn once can't tell its offset from the curve.
    ridge = np.diag([1e-6, 1e-6, 1e-6, *[0.5] * len(seeds)])
    coefficients = np.linalg.solve(design.T @ design + ridge, design.T @ y)
    slope, curvature = coefficients[1], coefficients[2]
    if curvature <= 0:
        return best
    return best + float(np.clip(-slope / (2 * curvature), -1.5, 1.5))
