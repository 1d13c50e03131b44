"""One batch size by itself: its best LR, what fails, and the curves that this rests on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.runs import CONFIRM, Run, published_means
from pipeline.analysis.stats.curve import Curve, fit_curve
from pipeline.analysis.stats.results import BatchResult

# Runs within half an octave of the best LR stand for it: the margin tolerates more than that.
NEAR_OCTAVES = 0.5


@dataclass(frozen=True)
class BatchFit:
    """A batch size, before any rule is judged.

    Attributes:
        result: from the search's runs alone, so that what was chosen with fresh seeds doesn't move it.
        runs: all of its runs.
        joint: the curve fitted to all runs, confirmation included: what verdicts rest on.
    """

    result: BatchResult
    runs: tuple[Run, ...]
    joint: Curve | None

    @property
    def batch(self) -> int:
        """Examples in one optimizer step."""
        return self.result.batch

    def near_best(self) -> list[Run]:
        """Usable runs within half an octave of the best LR."""
        best = self.result.best_lr
        return [r for r in self.runs if best and r.usable and abs(math.log2(r.lr / best)) <= NEAR_OCTAVES]


def fit_batch(runs: Sequence[Run]) -> BatchFit:
    """Everything about one batch size that doesn't depend on the others.

    Args:
        runs: at least one, all of one batch size, in any order.
    """
    runs = sorted(runs, key=_order)
    # Fixed, and each batch size its own: the same runs always give the same answer, whatever else is in the table.
    rng = np.random.default_rng(runs[0].batch)
    failing = _lowest_failing(runs)
    admissible = [run for run in runs if run.usable and run.lr < failing]
    curve = _search_curve([run for run in runs if run.phase != CONFIRM], failing, rng)
    joint = curve if all(run.phase != CONFIRM for run in runs) else fit_curve(admissible, rng)
    steps = [run.steps for run in runs if run.steps is not None and run.usable]
    result = BatchResult(
        batch=runs[0].batch,
        runs=len(runs),
        failed=sum(run.failed for run in runs),
        steps=max(steps, default=None),
        stable_lr=max((run.lr for run in admissible), default=None),
        failing_lr=failing if failing < math.inf else None,
        noise_scale=_noise_scale(admissible, curve),
        seeds=len({run.seed for run in runs if run.phase != CONFIRM and run.seed is not None}),
        curve=curve,
        **(_best(curve, admissible, failing) or _best_published(admissible)),
    )
    return BatchFit(result, tuple(runs), joint)


def _lowest_failing(runs: Sequence[Run]) -> float:
    """The lowest LR at which any seed failed; infinite where none did."""
    return min((run.lr for run in runs if run.failed), default=math.inf)


def _search_curve(searched: Sequence[Run], failing: float, rng: np.random.Generator) -> Curve | None:
    """The curve of the search's runs, the same whether or not fresh seeds have run since.

    Only where one of those failed at what the search took for the best LR, that LR is ruled out after all.
    """
    bound = _lowest_failing(searched)
    curve = fit_curve([run for run in searched if run.usable and run.lr < bound], rng)
    if curve is None or curve.interval()[0] < math.log2(failing):
        return curve
    return curve.below(math.log2(failing))


def _order(run: Run) -> tuple[float, str, str, float]:
    return run.lr, str(run.seed), run.phase, run.value


def _best(curve: Curve | None, runs: Sequence[Run], failing: float) -> dict[str, Any]:
    """The best LR and what there is at it; nothing where the curve can't tell. It lies below the lowest failing LR."""
    if curve is None:
        return {}
    best_value = float(np.exp(np.median(curve.at_best())))
    if censored := curve.censored():
        return {"censored": censored, "best_value": best_value}
    best, low, high = (2**octave for octave in curve.interval())
    high = min(high, failing)
    # Fresh seeds at the best LR, where there are any, else what was run nearest to it.
    near = [run for run in runs if run.test_loss is not None and abs(math.log2(run.lr / best)) <= NEAR_OCTAVES]
    tested = sorted(near, key=lambda run: (run.phase != CONFIRM, abs(math.log(run.lr / best))))[:5]
    test_value = float(np.mean([run.test_loss for run in tested])) if tested else None
    return {"best_lr": best, "ci_low": low, "ci_high": high, "best_value": best_value, "test_value": test_value}


def _best_published(runs: Sequence[Run]) -> dict[str, Any]:
    """The lowest published mean, without an interval, where there are means and too few for a curve."""
    means = published_means(runs)
    if not means:
        return {}
    best = min(means, key=lambda run: run.value)
    return {"best_lr": best.lr, "best_value": best.value}


def _noise_scale(runs: Sequence[Run], curve: Curve | None) -> float | None:
    """Gradient noise scale near the best LR; numerators and denominators are averaged apart."""
    if curve is None:
        return None
    best = float(np.median(curve.argmins()))
    measured = [
        run
        for run in runs
        if run.noise_trace is not None
        and run.noise_squared_norm is not None
        and abs(math.log2(run.lr) - best) <= NEAR_OCTAVES
    ]
    if not measured:
        return None
    trace = float(np.mean([run.noise_trace for run in measured]))
    squared_norm = float(np.mean([run.noise_squared_norm for run in measured]))
    return trace / squared_norm if squared_norm > 0 else None


def band(curve: Curve | None, margin: float | None) -> tuple[float | None, float | None]:
    """The LRs at which the median curve lies within the margin of its minimum."""
    if curve is None or margin is None or curve.censored():
        return None, None
    losses = np.exp(np.median(curve.draws, axis=0))
    lowest = int(losses.argmin())
    beyond = np.flatnonzero(losses > losses.min() + margin)
    low = beyond[beyond < lowest].max(initial=-1) + 1
    high = beyond[beyond > lowest].min(initial=len(losses)) - 1
    return float(2 ** curve.octaves[low]), float(2 ** curve.octaves[high])


def band_is_open(curve: Curve | None, band_low: float | None, band_high: float | None) -> bool:
    """Whether the band ends where what was fitted ends, so that it may be wider."""
    if curve is None or band_low is None or band_high is None:
        return False
    return bool(band_low <= 2 ** curve.octaves[0] or band_high >= 2 ** curve.octaves[-1])
