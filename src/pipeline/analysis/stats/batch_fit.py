"""One batch size by itself: its best LR, the LRs that fail, its loss curve and its fresh seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from pipeline.analysis.runs import CONFIRM, Run, published_means
from pipeline.analysis.stats.curve import Curve, fit_curve
from pipeline.analysis.stats.pairs import SAME_LR_OCTAVES, FreshSeeds, fresh_seeds, same_lr
from pipeline.analysis.stats.results import BatchResult

# Runs within half an octave of the best LR count as runs at it: the margin usually tolerates more than that.
NEAR_OCTAVES = 0.5
# The test loss at the best LR is the mean over this many runs at most.
MAX_TESTED = 5
# An LR fails where more than this share of its runs failed, significantly at this level (binomial test). A single run
# that failed is enough, one of many is not.
FAILED_SHARE, FAILED_LEVEL = 0.05, 0.05


@dataclass(frozen=True)
class BatchFit:
    """A batch size with its runs and curve, before any rule is judged.

    Attributes:
        result: the best LR is from the search's runs alone, so that fresh seeds at it don't change which LR it is.
        runs: all runs.
        search_best: the LR at the minimum of the search's curve, also where the minimum is censored.
        search_failing: the lowest LR that failed in the search; infinite where none did.
        fresh: the fresh seeds, by LR.
    """

    result: BatchResult
    runs: tuple[Run, ...]
    search_best: float | None = None
    search_failing: float = math.inf
    fresh: FreshSeeds = field(default_factory=dict)

    def near_best(self) -> list[Run]:
        """Usable runs within half an octave of the best LR."""
        best = self.result.best_lr
        return [run for run in self.runs if best and run.usable and same_lr(run.lr, best, NEAR_OCTAVES + 1e-9)]


def fit_batches(runs: Sequence[Run]) -> dict[int, BatchFit]:
    """Analyse each batch size of a table by itself, in increasing order."""
    by_size: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.batch):
        by_size.setdefault(run.batch, []).append(run)
    return {size: _fit_batch(found) for size, found in by_size.items()}


def _fit_batch(runs: Sequence[Run]) -> BatchFit:
    runs = sorted(runs, key=lambda run: (run.lr, str(run.seed), run.phase, run.value))
    # The random numbers depend on the batch size alone: the same runs give the same answer in any table.
    rng = np.random.default_rng(runs[0].batch)
    searched = [run for run in runs if run.phase != CONFIRM]
    failing, bound = lowest_failing(runs), lowest_failing(searched)
    admissible = [run for run in runs if run.usable and run.lr < failing]
    curve = fit_curve([run for run in searched if run.usable and run.lr < bound], rng)
    search_best = None if curve is None else 2 ** curve.interval()[0]
    search_value = None if curve is None else _value_at_best(curve)
    # Fresh seeds don't change this curve; but if the best LR or a lower one fails by them, the curve ends there.
    if curve is not None and search_best is not None and search_best >= failing:
        curve = curve.below(math.log2(failing))
    pooled = None if len(searched) == len(runs) else fit_curve(admissible, rng)
    result = BatchResult(
        batch=runs[0].batch,
        runs=len(runs),
        failed=sum(run.failed for run in runs),
        steps=max((run.steps for run in runs if run.steps is not None and run.usable), default=None),
        stable_lr=max((run.lr for run in admissible), default=None),
        failing_lr=failing if failing < math.inf else None,
        noise_scale=_noise_scale(admissible, curve),
        seeds=len({run.seed for run in searched if run.seed is not None}),
        lrs=len({run.lr for run in searched if run.usable}),
        curve=curve,
        **_best(curve, pooled, admissible, failing),
    )
    return BatchFit(result, tuple(runs), search_best, bound, fresh_seeds(runs, search_value))


def lowest_failing(runs: Sequence[Run]) -> float:
    """Return the lowest LR that fails: significantly more than a small share of its runs did; infinite without any."""
    ended = sorted((run.lr, run.failed) for run in runs if run.failed or run.usable)
    # Runs at one LR stand together; the first of a group names it.
    start, counts = math.nan, [0, 0]
    for position, (lr, failed) in enumerate(ended):
        if not lr <= start * 2**SAME_LR_OCTAVES:
            start, counts = lr, [0, 0]
        counts[failed] += 1
        is_last = position + 1 == len(ended) or not ended[position + 1][0] <= start * 2**SAME_LR_OCTAVES
        if is_last and stats.binom.sf(counts[1] - 1, sum(counts), FAILED_SHARE) <= FAILED_LEVEL * (1 + 1e-9):
            return start
    return math.inf


def _best(curve: Curve | None, pooled: Curve | None, runs: Sequence[Run], failing: float) -> dict[str, Any]:
    """The best LR, its interval below the lowest failing LR, and the losses at it.

    The fresh seeds narrow the interval, by the curve `pooled` of all runs, but don't move the best LR.
    Without a curve it is the lowest published mean, without an interval; empty where the rows are single runs.
    """
    if curve is None:
        return _best_mean(published_means(runs))
    best_value = _value_at_best(curve)
    if censored := curve.censored():
        return {"censored": censored, "best_value": best_value}
    best, low, high = (2**octave for octave in curve.interval())
    if pooled is not None and pooled.censored() is None:
        _, pooled_low, pooled_high = (2**octave for octave in pooled.interval())
        low, high = min(pooled_low, best), max(pooled_high, best)
    # Fresh seeds at the best LR come first, then the runs nearest to it.
    near = [run for run in runs if run.test_loss is not None and same_lr(run.lr, best, NEAR_OCTAVES + 1e-9)]
    near.sort(key=lambda run: (run.phase != CONFIRM, abs(math.log(run.lr / best))))
    test_value = float(np.mean([run.test_loss for run in near[:MAX_TESTED]])) if near else None
    return {
        "best_lr": best,
        "ci_low": low,
        "ci_high": min(high, failing),
        "best_value": best_value,
        "test_value": test_value,
    }


def _best_mean(means: Sequence[Run]) -> dict[str, Any]:
    """The lowest published mean; censored at an end of several LRs, since the best may lie beyond."""
    if not means:
        return {}
    best = min(means, key=lambda run: run.value)
    lrs = sorted({run.lr for run in means})
    if len(lrs) > 1 and best.lr in (lrs[0], lrs[-1]):
        return {"censored": "low" if best.lr == lrs[0] else "high", "best_value": best.value}
    return {"best_lr": best.lr, "best_value": best.value}


def _value_at_best(curve: Curve) -> float:
    return float(np.exp(np.median(curve.at_best())))


def _noise_scale(runs: Sequence[Run], curve: Curve | None) -> float | None:
    """Gradient noise scale tr Σ / |G|² near the best LR: mean numerator over mean denominator."""
    if curve is None:
        return None
    best = float(np.median(curve.argmins()))
    near = [run for run in runs if abs(math.log2(run.lr) - best) <= NEAR_OCTAVES]
    measured = [run for run in near if run.noise_trace is not None and run.noise_squared_norm is not None]
    if not measured:
        return None
    trace = float(np.mean([run.noise_trace for run in measured]))
    squared_norm = float(np.mean([run.noise_squared_norm for run in measured]))
    return trace / squared_norm if squared_norm > 0 else None


def tolerance_band(curve: Curve | None, margin: float | None) -> tuple[float | None, float | None, bool]:
    """Return the lowest and highest LR around the best where the median curve is within the margin of its minimum.

    The third value is whether this band is open: it reaches an end of the fitted LRs, so it may be wider.
    """
    if curve is None or margin is None or curve.censored():
        return None, None, False
    losses = np.exp(np.median(curve.draws, axis=0))
    lowest = int(losses.argmin())
    beyond = np.flatnonzero(losses > losses.min() + margin)
    low = beyond[beyond < lowest].max(initial=-1) + 1
    high = beyond[beyond > lowest].min(initial=len(losses)) - 1
    is_open = low == 0 or high == len(losses) - 1
    return float(2 ** curve.octaves[low]), float(2 ** curve.octaves[high]), bool(is_open)
