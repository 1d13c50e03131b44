"""What a design can tell: the smallest error of an LR that it would notice."""

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from pipeline.analysis.stats.batch_fit import BatchFit
from pipeline.analysis.stats.confirmation import compare
from pipeline.analysis.stats.curve import Curve

# An error counts as detectable where the design says `breaks` in this share of simulations.
POWER = 0.8
SIMULATIONS = 500
# Errors that are looked at, in octaves.
_STEPS = np.arange(0.125, 4.01, 0.125)


def detectable_error(
    cell: BatchFit, base: BatchFit, margin: float | None, level: float, rng: np.random.Generator
) -> float | None:
    """Octaves by which a rule's LR must be wrong for this design to say `breaks` in 80 % of simulations.

    The rule's LR is known as well as the base batch's best LR, the cell's own curve as its posterior says, and pairs of
    fresh seeds differ as they were seen to (or as single runs of different seeds do).

    Args:
        level: one-sided, of a single verdict: where several batch sizes are judged, the strictest of Holm's.


    Returns:
        The larger of the errors upwards and downwards; None where no error within the fitted window would do.
    """
    curve, anchor = cell.pooled, base.pooled
    if curve is None or anchor is None or margin is None or cell.result.best_lr is None:
        return None
    spread = math.hypot(float(np.std(anchor.argmins())), float(np.std(curve.argmins())))
    pairs, sd = _noise(cell)
    regret = _median_regret(curve)
    shifts = rng.normal(0, spread, SIMULATIONS)
    noise = rng.normal(0, sd / math.sqrt(pairs), SIMULATIONS)
    seen_sd = sd * np.sqrt(rng.chisquare(pairs - 1, SIMULATIONS) / (pairs - 1))
    half = float(stats.t.ppf(1 - level, pairs - 1)) * seen_sd / math.sqrt(pairs)
    reach = float(stats.norm.ppf(1 - level))
    sides = []
    for sign in (-1, 1):
        found = None
        for step in _STEPS:
            off = np.abs(sign * step + shifts)
            by_pairs = regret(sign * off) + noise - half > margin
            by_curves = regret(sign * np.maximum(off - reach * spread, 0)) > margin
            if np.mean(by_pairs & by_curves) >= POWER:
                found = float(step)
                break
        sides.append(found)
    return None if None in sides else max(side for side in sides if side is not None)


def _noise(cell: BatchFit) -> tuple[int, float]:
    """How many pairs of fresh seeds there are, and the standard deviation of a pair's difference."""
    result = cell.result
    assert result.best_lr is not None
    for rule in result.rules.values():
        paired = compare(cell.runs, rule.lr, result.best_lr) if math.isfinite(rule.lr) else None
        if paired is not None and paired.sd > 0:
            return paired.seeds, paired.sd
    near = cell.near_best()
    seeds = max(2, len({run.seed for run in near}))
    values = [run.value for run in near]
    return seeds, math.sqrt(2) * float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _median_regret(curve: Curve) -> Callable[[np.ndarray], np.ndarray]:
    """Regret over octaves from the best, by the median curve; constant beyond its ends."""
    losses = np.exp(np.median(curve.draws, axis=0))
    lowest = curve.octaves[losses.argmin()]

    def regret(octaves: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(lowest + octaves, curve.octaves, losses - losses.min()))

    return regret
