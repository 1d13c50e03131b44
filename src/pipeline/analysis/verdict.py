"""Does a rule hold? Its regret at each batch size, with the anchor and the cell drawn together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.analysis.curve import Curve
from pipeline.analysis.results import BatchResult, RuleResult

# One-sided level of a verdict; `breaks` shares it out over the batches (Holm 1979).
LEVEL = 0.05
# The rules that are judged, as exponents of batch / base batch.
RULES = {"linear": 1.0, "sqrt": 0.5, "fixed": 0.0}


def judge(cells: Mapping[int, BatchResult], base: int, margin: float | None) -> dict[int, BatchResult]:
    """Add to each cell its band, and each rule's verdict with the anchor and the cell drawn together."""
    results = {}
    anchor = cells[base].curve
    usable_anchor = anchor if cells[base].best_lr is not None else None
    regrets = {
        rule: {size: _Regret.of(cell, usable_anchor, base, exponent) for size, cell in cells.items()}
        for rule, exponent in RULES.items()
    }
    breaking = {rule: holm(_chances(regrets[rule], base, margin)) for rule in RULES}
    for size, cell in cells.items():
        rules = {rule: regrets[rule][size].result(margin, size in breaking[rule]) for rule in RULES}
        low, high = _band(cell, margin)
        results[size] = replace(cell, rules=rules, band_low=low, band_high=high)
    return results


@dataclass(frozen=True)
class _Regret:
    """A rule at one batch size: its LR in each draw, and by how much that misses the best."""

    cell: BatchResult
    lr: float | None
    regrets: np.ndarray | None
    loss: float | None = None
    clipped: bool = False

    @classmethod
    def of(cls, cell: BatchResult, anchor: Curve | None, base: int, exponent: float) -> "_Regret":
        if anchor is None:
            return cls(cell, None, None)
        octaves = anchor.argmins() + exponent * math.log2(cell.batch / base)
        lr = float(2 ** np.median(octaves))
        curve = cell.curve
        if curve is None:
            return cls(cell, lr, None)
        best = curve.draws.min(axis=1)
        regrets = np.exp(curve.at(octaves)) - np.exp(best)
        if cell.failing_lr is not None:
            regrets = np.where(octaves >= math.log2(cell.failing_lr), np.inf, regrets)
        loss = float(np.exp(np.median(curve.at(np.full(len(best), math.log2(lr))))))
        clipped = not curve.octaves[0] <= math.log2(lr) <= curve.octaves[-1]
        return cls(cell, lr, regrets, loss, clipped)

    def result(self, margin: float | None, breaks: bool) -> RuleResult:
        """The verdict; `breaks` says whether Holm's procedure rejected that the rule holds here."""
        if self.lr is None:
            return RuleResult(math.nan, verdict="censored", reason="the base batch has no best LR")
        if self.cell.failing_lr is not None and self.lr >= self.cell.failing_lr:
            return RuleResult(self.lr, verdict="breaks", reason="diverges")
        if self.regrets is None or margin is None:
            return RuleResult(self.lr, verdict="undecided", reason="too few runs")
        # A draw that fails counts as infinitely worse; between finite and infinite nothing is interpolated.
        low, median, high = (
            float(q) for q in np.quantile(self.regrets, (LEVEL, 0.5, 1 - LEVEL), method="inverted_cdf")
        )
        numbers: dict[str, Any] = {"loss": self.loss, "regret": median, "regret_low": low, "regret_high": high}
        if breaks:
            # Beyond the fitted window the curve only gets worse: what is known there is a lower bound.
            return RuleResult(self.lr, **numbers, verdict="breaks", reason="at least" if self.clipped else "")
        if self.clipped:
            return RuleResult(self.lr, verdict="censored", reason="outside what was tried")
        if self.cell.censored:
            return RuleResult(self.lr, **numbers, verdict="censored", reason="the best may lie beyond what was tried")
        if np.mean(self.regrets <= margin) >= 1 - LEVEL:
            return RuleResult(self.lr, **numbers, verdict="holds")
        return RuleResult(self.lr, **numbers, verdict="undecided")


def _chances(regrets: Mapping[int, _Regret], base: int, margin: float | None) -> dict[int, float]:
    """One-sided p-value of `breaks` at each batch but the base: the posterior share of regrets in the margin."""
    return {
        size: float(np.mean(regret.regrets <= margin))
        for size, regret in regrets.items()
        if size != base and regret.regrets is not None and margin is not None
    }


def holm(chances: Mapping[int, float]) -> set[int]:
    """The batch sizes at which a rule breaks, so that all verdicts together err in at most `LEVEL`.

    Holm 1979: in rising order of p-value, the k-th of m is tested at LEVEL / (m − k + 1), and none after the
    first that isn't rejected.
    """
    breaking: set[int] = set()
    for rank, (chance, size) in enumerate(sorted((chance, size) for size, chance in chances.items())):
        if chance > LEVEL / (len(chances) - rank):
            break
        breaking.add(size)
    return breaking


def _band(cell: BatchResult, margin: float | None) -> tuple[float | None, float | None]:
    """The LRs at which the median curve lies within the margin of its minimum."""
    if cell.curve is None or margin is None or cell.censored:
        return None, None
    curve = np.exp(np.median(cell.curve.draws, axis=0))
    inside = np.flatnonzero(curve <= curve.min() + margin)
    return float(2 ** cell.curve.octaves[inside[0]]), float(2 ** cell.curve.octaves[inside[-1]])
