"""Regret of an LR by the fitted curve: how much worse the objective is there than at the best LR.

This is the evidence where no fresh seeds ran. It assumes the model of `gaussian_process`.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.stats.batch_fit import BatchFit
from pipeline.analysis.stats.results import RuleResult

# Where the curve doesn't reach, an LR breaks if all runs at the nearest LRs on both sides are worse by so many margins.
MANY_MARGINS = 3.0


@dataclass(frozen=True)
class CurveRegret:
    """The regret of an LR by the curve of a batch size.

    Attributes:
        lr: the LR.
        draws: [D] regret in each posterior curve; a lower bound where `is_clipped`.
        loss, best_loss: median objective at the LR and at the best one.
        is_clipped: whether the LR lies outside the fitted curve.
    """

    lr: float
    draws: np.ndarray
    loss: float
    best_loss: float
    is_clipped: bool

    def p_value_above(self, margin: float) -> float:
        """Share of the curves in which the regret is at most `margin`; small if the rule breaks."""
        return float(np.mean(self.draws <= margin))

    def p_value_below(self, margin: float) -> float:
        """Share of the curves in which the regret is above `margin`; small if the rule holds."""
        return 1.0 if self.is_clipped else float(np.mean(self.draws > margin))

    def measured(self, level: float) -> RuleResult:
        """LR, losses and regret with one-sided bounds at `level`."""
        low, median, high = np.quantile(self.draws, (level, 0.5, 1 - level), method="inverted_cdf").tolist()
        return RuleResult(self.lr, self.loss, self.best_loss, median, low, high, evidence="interpolated")


def curve_regret(fit: BatchFit, lr: float) -> CurveRegret | None:
    """Return the regret of an LR by the fitted curve; None without one."""
    curve = fit.result.curve
    if curve is None:
        return None
    octave = math.log2(lr)
    losses = np.exp(curve.at(np.full(len(curve.draws), octave)))
    best_loss = fit.result.best_value or float(np.median(np.exp(curve.at_best())))
    is_clipped = not curve.octaves[0] <= octave <= curve.octaves[-1]
    return CurveRegret(lr, losses - np.exp(curve.draws.min(axis=1)), float(np.median(losses)), best_loss, is_clipped)


def was_tried(fit: BatchFit, lr: float) -> bool:
    """Whether an LR lies between two that were tried, the lower of them with a result."""
    usable = [run.lr for run in fit.runs if run.usable]
    return bool(usable) and min(usable) <= lr <= max(run.lr for run in fit.runs if run.usable or run.failed)


def is_worse_around(fit: BatchFit, lr: float, margin: float) -> bool:
    """Whether all runs at the nearest LRs on both sides failed, or are worse than the best by many margins."""
    best = fit.result.best_value
    ended = [run for run in fit.runs if run.usable or run.failed]
    if best is None:
        return False
    for side in ([run.lr for run in ended if run.lr <= lr], [run.lr for run in ended if run.lr >= lr]):
        if not side:
            return False
        nearest = min(side, key=lambda other: abs(math.log(other / lr)))
        if any(run.usable and run.lr == nearest and run.value <= best + MANY_MARGINS * margin for run in ended):
            return False
    return True
