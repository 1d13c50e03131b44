"""One batch size by itself: its best LR, the LRs that fail, and its loss curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.runs import CONFIRM, Run, published_means
from pipeline.analysis.stats.curve import Curve, fit_curve
from pipeline.analysis.stats.results import BatchResult

# Runs within half an octave of the best LR count as runs at it: the margin usually tolerates more than that.
NEAR_OCTAVES = 0.5
# The test loss at the best LR is the mean over this many runs at most.
MAX_TESTED = 5


@dataclass(frozen=True)
class BatchFit:
    """A batch size with its runs and curves, before any rule is judged.

    Attributes:
        result: from the search's runs alone, so that fresh seeds at the best LR don't change which LR is the best.
        runs: all runs.
        pooled: the curve fitted to all runs, fresh seeds included; verdicts use it.
    """

    result: BatchResult
    runs: tuple[Run, ...]
    pooled: Curve | None

    def near_best(self) -> list[Run]:
        """Usable runs within half an octave of the best LR."""
        best = self.result.best_lr
        return [run for run in self.runs if best and run.usable and _is_near(run.lr, best)]


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
    failing = _lowest_failing(runs)
    admissible = [run for run in runs if run.usable and run.lr < failing]
    searched = [run for run in runs if run.phase != CONFIRM]
    bound = _lowest_failing(searched)
    curve = fit_curve([run for run in searched if run.usable and run.lr < bound], rng)
    # Fresh seeds don't change this curve; but if one failed at the best LR or below, the curve ends there.
    if curve is not None and curve.interval()[0] >= math.log2(failing):
        curve = curve.below(math.log2(failing))
    pooled = curve if len(searched) == len(runs) else fit_curve(admissible, rng)
    result = BatchResult(
        batch=runs[0].batch,
        runs=len(runs),
        failed=sum(run.failed for run in runs),
        steps=max((run.steps for run in runs if run.steps is not None and run.usable), default=None),
        stable_lr=max((run.lr for run in admissible), default=None),
        failing_lr=failing if failing < math.inf else None,
        noise_scale=_noise_scale(admissible, curve),
        seeds=len({run.seed for run in searched if run.seed is not None}),
        curve=curve,
        **_best(curve, admissible, failing),
    )
    return BatchFit(result, tuple(runs), pooled)


def _lowest_failing(runs: Sequence[Run]) -> float:
    """The lowest LR at which any seed failed; infinite where none did."""
    return min((run.lr for run in runs if run.failed), default=math.inf)


def _is_near(lr: float, best: float) -> bool:
    return abs(math.log2(lr / best)) <= NEAR_OCTAVES


def _best(curve: Curve | None, runs: Sequence[Run], failing: float) -> dict[str, Any]:
    """The best LR, its interval below the lowest failing LR, and the losses at it.

    Without a curve it is the lowest published mean, without an interval; empty where the rows are single runs.
    """
    if curve is None:
        mean = min(published_means(runs), key=lambda run: run.value, default=None)
        return {} if mean is None else {"best_lr": mean.lr, "best_value": mean.value}
    best_value = float(np.exp(np.median(curve.at_best())))
    if censored := curve.censored():
        return {"censored": censored, "best_value": best_value}
    best, low, high = (2**octave for octave in curve.interval())
    # Fresh seeds at the best LR come first, then the runs nearest to it.
    near = [run for run in runs if run.test_loss is not None and _is_near(run.lr, best)]
    near.sort(key=lambda run: (run.phase != CONFIRM, abs(math.log(run.lr / best))))
    test_value = float(np.mean([run.test_loss for run in near[:MAX_TESTED]])) if near else None
    return {
        "best_lr": best,
        "ci_low": low,
        "ci_high": min(high, failing),
        "best_value": best_value,
        "test_value": test_value,
    }


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
