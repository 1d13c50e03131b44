"""Regret of a rule at one batch size: how much worse the objective is at the rule's LR than at the best LR.

There are two kinds of evidence. The posterior curves of the batch size and of the base batch are drawn together, since
the base's best LR, where the rule starts, is an estimate too; they assume the model of `gaussian_process`. Fresh seeds
at the rule's LR and at the best one are compared in pairs (`confirmation`); they assume no model of the curve.

A verdict needs both kinds to agree, where both are there: its p-value is the larger of the two. This is an
intersection-union test (Berger 1982, Technometrics 24:295), which keeps the significance level without a correction.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from pipeline.analysis.runs import published_means
from pipeline.analysis.stats.batch_fit import BatchFit
from pipeline.analysis.stats.confirmation import MAX_SEEDS, Comparison, compare
from pipeline.analysis.stats.results import RuleResult


@dataclass(frozen=True)
class Regret:
    """The evidence on one rule at one batch size.

    Attributes:
        fit: the batch size.
        lr: the rule's LR; None where the base batch has no best LR.
        draws: [D] regret in each joint draw of both curves; infinite where the rule's LR is one that fails.
        outside: [D] whether the rule's LR is outside the fitted curve in a draw, so that the regret is a lower bound.
        draws_if_base_known: [D] regret if the base's best LR were exactly its estimate.
        loss: median objective at the rule's LR by the curve.
        paired: the comparison of fresh seeds, or of published means.
    """

    fit: BatchFit
    lr: float | None = None
    draws: np.ndarray | None = None
    outside: np.ndarray | None = None
    draws_if_base_known: np.ndarray | None = None
    loss: float | None = None
    paired: Comparison | None = None

    @property
    def is_clipped(self) -> bool:
        """Whether the rule's LR lies outside the fitted curve."""
        curve = self.fit.pooled
        return curve is None or self.lr is None or not curve.octaves[0] <= math.log2(self.lr) <= curve.octaves[-1]

    @property
    def is_untried(self) -> bool:
        """Whether the rule's LR lies outside all LRs that were tried, so that nothing is known of it."""
        if self.lr is None or self.paired is not None:
            return False
        tried = [run.lr for run in self.fit.runs if run.usable]
        return not tried or not min(tried) <= self.lr <= max(tried)

    @property
    def has_evidence(self) -> bool:
        """Whether there is any evidence of the regret."""
        return (self.draws is not None or self.paired is not None) and not self.is_untried

    def p_value_breaks(self, margin: float) -> float:
        """p-value of the hypothesis that the regret is at most `margin`; small if the rule breaks."""
        p_values = [0.0]
        if self.draws is not None:
            p_values.append(float(np.mean(self.draws <= margin)))
        if self.paired is not None:
            p_values.append(self.paired.p_value_above(margin))
        return max(p_values)

    def p_value_holds(self, margin: float) -> float:
        """p-value of the hypothesis that the regret is above `margin`; small if the rule holds.

        Outside the fitted curve only pairs can show that the rule holds.
        """
        p_values = []
        if self.paired is not None:
            p_values.append(self.paired.p_value_below(margin))
        if self.draws is not None and self.outside is not None and not (self.paired and self.is_clipped):
            p_values.append(float(np.mean((self.draws > margin) | self.outside)))
        return max(p_values, default=1.0)

    def if_base_known(self) -> "Regret | None":
        """The evidence if the base's best LR were exactly its estimate; None without curves."""
        if self.draws_if_base_known is None:
            return None
        outside = np.full(len(self.draws_if_base_known), self.is_clipped)
        return replace(self, draws=self.draws_if_base_known, outside=outside)

    def measured(self, level: float) -> RuleResult:
        """LR, loss and regret with one-sided bounds at `level`: by pairs where there are any, else by the curves."""
        assert self.lr is not None
        if self.paired is not None:
            evidence = "published" if published_means(self.fit.runs) else "confirmed"
            regret = (self.paired.mean, *self.paired.bounds(level))
            return RuleResult(self.lr, self.paired.loss, *regret, evidence=evidence, seeds=self.paired.seeds)
        assert self.draws is not None
        # No interpolation: draws may be infinite.
        low, median, high = np.quantile(self.draws, (level, 0.5, 1 - level), method="inverted_cdf").tolist()
        return RuleResult(self.lr, self.loss, median, low, high, evidence="interpolated")

    def more_seeds(self, margin: float, level_holds: float, level_breaks: float) -> int | None:
        """How many further seeds would decide, if their noise and the regret stay the same; None if too many."""
        regret = self.paired.mean if self.paired is not None else float(np.median(self.draws))  # type: ignore[arg-type]
        breaks = regret > margin
        level = level_breaks if breaks else level_holds
        needed: list[float] = []
        if self.paired is not None:
            needed.append(self.paired.seeds_to_decide(margin, level) - self.paired.seeds)
        if self.draws is not None and not self.is_clipped:
            needed.append(self._more_seeds_for_curve(self.draws, margin, level, breaks))
        most = max(needed, default=math.inf)
        return None if most > MAX_SEEDS else max(1, math.ceil(most))

    def _more_seeds_for_curve(self, draws: np.ndarray, margin: float, level: float, breaks: bool) -> float:
        """Further seeds until the posterior decides, if its width shrinks with the square root of their number."""
        median = float(np.median(draws))
        bound = float(np.quantile(draws, level if breaks else 1 - level, method="inverted_cdf"))
        gap, width = (median - margin, median - bound) if breaks else (margin - median, bound - median)
        if not gap > 0 or math.isinf(width):
            return math.inf
        seeds = len({run.seed for run in self.fit.runs if run.usable})
        return max(0.0, seeds * ((width / gap) ** 2 - 1))


def estimate_regret(fit: BatchFit, base: BatchFit, exponent: float) -> Regret:
    """Estimate the regret of the rule LR ∝ batch^exponent, which starts from the best LR of `base`."""
    base_lr, best_lr = base.result.best_lr, fit.result.best_lr
    if base_lr is None:
        return Regret(fit)
    shift = exponent * math.log2(fit.result.batch / base.result.batch)
    lr = base_lr * 2**shift
    curve = fit.pooled
    paired = None if best_lr is None else compare(fit.runs, lr, best_lr)
    if curve is None or base.pooled is None:
        return Regret(fit, lr, paired=paired)
    octaves = base.pooled.argmins() + shift
    lowest = np.exp(curve.draws.min(axis=1))
    draws = np.exp(curve.at(octaves)) - lowest
    if fit.result.failing_lr is not None:
        draws = np.where(octaves >= math.log2(fit.result.failing_lr), np.inf, draws)
    outside = (octaves < curve.octaves[0]) | (octaves > curve.octaves[-1])
    at_estimate = np.exp(curve.at(np.full(len(octaves), math.log2(lr))))
    return Regret(fit, lr, draws, outside, at_estimate - lowest, float(np.median(at_estimate)), paired)
