"""Power: the smallest error of an LR that a design would detect."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy import stats

from pipeline.analysis.stats.batch_fit import BatchFit
from pipeline.analysis.stats.confirmation import compare
from pipeline.analysis.stats.results import BatchResult

# An error is detectable if the verdict is `breaks` in this share of simulations.
POWER = 0.8
SIMULATIONS = 500
# The errors that are tried, in octaves.
ERRORS = np.arange(0.125, 4.01, 0.125)


def detectable_errors(
    fits: Mapping[int, BatchFit],
    judged: Mapping[int, BatchResult],
    base: int,
    margin: float | None,
    level: float,
    rng: np.random.Generator,
) -> dict[int, float | None]:
    """Return by how many octaves a rule's LR must be wrong for the verdict `breaks` in 80 % of simulations.

    The simulations assume: the best LRs of both batch sizes are as uncertain as their posteriors; the regret at a
    distance from the best LR is that of the median curve, constant beyond its ends; differences of pairs of fresh seeds
    are normal, with the standard deviation that was observed (or that of single runs near the best LR, times √2).

    Args:
        fits, judged: by batch size, before and after the rules were judged.
        margin: in the objective's unit.
        level: one-sided significance level of all batch sizes together; each is tested at the strictest of Holm's.

    Returns:
        For each batch size the larger of the errors upwards and downwards; None if four octaves are not enough.
    """
    strictest = level / max(1, len(fits) - 1)
    return {
        size: _detectable_error(replace(fit, result=judged[size]), fits[base], margin, strictest, rng)
        for size, fit in fits.items()
    }


def _detectable_error(
    fit: BatchFit, base: BatchFit, margin: float | None, level: float, rng: np.random.Generator
) -> float | None:
    curve, base_curve = fit.pooled, base.pooled
    if curve is None or base_curve is None or margin is None or fit.result.best_lr is None:
        return None
    uncertainty = math.hypot(float(np.std(base_curve.argmins())), float(np.std(curve.argmins())))
    pairs, sd = _paired_noise(fit)
    losses = np.exp(np.median(curve.draws, axis=0))
    best = curve.octaves[losses.argmin()]
    shifts = rng.normal(0, uncertainty, SIMULATIONS)
    noise = rng.normal(0, sd / math.sqrt(pairs), SIMULATIONS)
    observed_sd = sd * np.sqrt(rng.chisquare(pairs - 1, SIMULATIONS) / (pairs - 1))
    half = float(stats.t.ppf(1 - level, pairs - 1)) * observed_sd / math.sqrt(pairs)
    reach = float(stats.norm.ppf(1 - level))

    def regret(octaves: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(best + octaves, curve.octaves, losses - losses.min()))

    def breaks_often(error: float, sign: int) -> bool:
        distance = np.abs(sign * error + shifts)
        by_pairs = regret(sign * distance) + noise - half > margin
        by_curves = regret(sign * np.maximum(distance - reach * uncertainty, 0)) > margin
        return bool(np.mean(by_pairs & by_curves) >= POWER)

    detected = [next((float(error) for error in ERRORS if breaks_often(error, sign)), math.inf) for sign in (-1, 1)]
    return max(detected) if max(detected) < math.inf else None


def _paired_noise(fit: BatchFit) -> tuple[int, float]:
    """The number of pairs of fresh seeds, and the standard deviation of a pair's difference."""
    best_lr = fit.result.best_lr
    assert best_lr is not None
    for rule in fit.result.rules.values():
        paired = compare(fit.runs, rule.lr, best_lr) if math.isfinite(rule.lr) else None
        if paired is not None and paired.sd > 0:
            return paired.seeds, paired.sd
    near = fit.near_best()
    seeds = max(2, len({run.seed for run in near}))
    values = [run.value for run in near]
    return seeds, math.sqrt(2) * float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
