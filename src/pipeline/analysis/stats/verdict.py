"""Does a rule hold? Its regret at each batch size, with the anchor and the cell drawn together.

Two things must agree before a verdict is given (an intersection-union test, so the level is kept): the posterior
curves, in which the base batch's own best LR is as uncertain as it is; and, where there are such runs, fresh seeds at
the rule's LR and at the best one, compared in pairs, which rest on no model of the curve.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipeline.analysis.runs import published_means
from pipeline.analysis.stats.batch_fit import BatchFit, tolerance_band
from pipeline.analysis.stats.confirmation import MAX_MORE_SEEDS, Comparison, compare
from pipeline.analysis.stats.results import (
    BREAKS_IF_BASE_KNOWN,
    BREAKS_WITHOUT_HOLM,
    HOLDS_IF_BASE_KNOWN,
    JUDGED_RULES,
    BatchResult,
    RuleResult,
)

# One-sided level of a verdict; `breaks` shares it out over the batches (Holm 1979).
LEVEL = 0.05


def judge(
    cells: Mapping[int, BatchFit], base: int, margin: float | None, level: float = LEVEL
) -> dict[int, BatchResult]:
    """Each cell's result with its band, and with each rule's verdict.

    Args:
        cells: by batch size.
        base: the batch size that the rules start from.
        margin: regret that counts as none, in the objective's unit; None where it isn't known.
        level: one-sided, of each verdict.
    """
    rules: dict[int, dict[str, RuleResult]] = {size: {} for size in cells}
    for rule, exponent in JUDGED_RULES.items():
        regrets = {size: _Regret.of(cell, cells[base], exponent) for size, cell in cells.items()}
        chances = {
            size: regret.chance_within(margin)
            for size, regret in regrets.items()
            if size != base and margin is not None and regret.judgeable
        }
        breaking = holm(chances, level)
        for size, regret in regrets.items():
            strict = level / max(1, len(chances))
            rules[size][rule] = regret.result(margin, size in breaking, level, strict, is_base=size == base)
    results = {}
    for size, cell in cells.items():
        low, high, is_open = tolerance_band(cell.result.curve, margin)
        results[size] = replace(cell.result, rules=rules[size], band_low=low, band_high=high, band_is_open=is_open)
    return results


@dataclass(frozen=True)
class _Regret:
    """A rule at one batch size.

    Attributes:
        lr: the rule's LR; None where the base batch has no best LR.
        draws: by how much the rule's LR misses the best in each draw of anchor and cell; infinite where it fails.
        outside: [D] whether the rule's LR lies beyond the fitted curve in a draw: its regret is a lower bound.
        from_point: [D] the same as `draws`, were the anchor known to be its point estimate.
        paired: fresh seeds' comparison, where there is one.
    """

    cell: BatchFit
    lr: float | None = None
    draws: np.ndarray | None = None
    outside: np.ndarray | None = None
    from_point: np.ndarray | None = None
    loss: float | None = None
    paired: Comparison | None = None

    @classmethod
    def of(cls, cell: BatchFit, base: BatchFit, exponent: float) -> "_Regret":
        anchor = base.result.best_lr
        if anchor is None:
            return cls(cell)
        shift = exponent * math.log2(cell.batch / base.batch)
        lr = anchor * 2**shift
        curve, best_lr = cell.pooled, cell.result.best_lr
        paired = None if best_lr is None else compare(cell.runs, lr, best_lr)
        if curve is None or base.pooled is None:
            return cls(cell, lr, paired=paired)
        octaves = base.pooled.argmins() + shift
        lowest = np.exp(curve.draws.min(axis=1))
        regrets = np.exp(curve.at(octaves)) - lowest
        if cell.result.failing_lr is not None:
            regrets = np.where(octaves >= math.log2(cell.result.failing_lr), np.inf, regrets)
        outside = (octaves < curve.octaves[0]) | (octaves > curve.octaves[-1])
        at_point = np.exp(curve.at(np.full(len(octaves), math.log2(lr))))
        return cls(cell, lr, regrets, outside, at_point - lowest, float(np.median(at_point)), paired)

    @property
    def clipped(self) -> bool:
        """Whether the rule's LR lies beyond the fitted curve."""
        curve = self.cell.pooled
        return curve is None or self.lr is None or not curve.octaves[0] <= math.log2(self.lr) <= curve.octaves[-1]

    @property
    def untried(self) -> bool:
        """Whether the rule's LR lies outside of all LRs that were tried: of those nothing is known."""
        if self.lr is None or self.paired is not None:
            return False
        tried = [run.lr for run in self.cell.runs if run.usable]
        return not tried or not min(tried) <= self.lr <= max(tried)

    @property
    def judgeable(self) -> bool:
        """Whether there is any evidence of how much worse than the best it is."""
        return (self.draws is not None or self.paired is not None) and not self.untried

    def chance_within(self, margin: float) -> float:
        """p-value of `breaks`: the larger of both kinds of evidence."""
        chances = [0.0]
        if self.draws is not None:
            chances.append(float(np.mean(self.draws <= margin)))
        if self.paired is not None:
            chances.append(self.paired.chance_within(margin))
        return max(chances)

    def chance_beyond(self, margin: float) -> float:
        """p-value of `holds`: the larger of both kinds; beyond the fitted curve only pairs can say it."""
        chances = []
        if self.paired is not None:
            chances.append(self.paired.chance_beyond(margin))
        if self.draws is not None and self.outside is not None and not (self.paired and self.clipped):
            chances.append(float(np.mean((self.draws > margin) | self.outside)))
        return max(chances, default=1.0)

    def result(self, margin: float | None, breaks: bool, level: float, strict: float, is_base: bool) -> RuleResult:
        """The verdict; `breaks` says whether Holm's procedure, strictest at `strict`, rejected that the rule holds."""
        if self.lr is None:
            return RuleResult(math.nan, verdict="censored", reason="the base batch has no best LR")
        failing = self.cell.result.failing_lr
        if failing is not None and self.lr >= failing:
            return RuleResult(self.lr, verdict="breaks", reason="diverges")
        if is_base:
            # The rules start here: what is left is how well the best LR itself is known.
            loss = self.paired.loss if self.paired is not None else self.loss
            return RuleResult(self.lr, loss, 0.0, 0.0, 0.0, "holds")
        if self.untried and self.draws is not None:
            return RuleResult(self.lr, verdict="censored", reason="outside what was tried")
        if not self.judgeable or margin is None:
            return RuleResult(self.lr, verdict="undecided", reason="too few runs")
        measured = self._measured(level)
        if breaks:
            # Beyond the fitted window the curve only gets worse: what is known there is a lower bound.
            if self.clipped and self.paired is None:
                return replace(measured, regret_high=math.inf, verdict="breaks", reason="at least")
            return replace(measured, verdict="breaks")
        if self.clipped and self.paired is None:
            return RuleResult(self.lr, verdict="censored", reason="outside what was tried")
        if self.cell.result.censored:
            return replace(measured, verdict="censored", reason="the best may lie beyond what was tried")
        if self.chance_beyond(margin) <= level:
            return replace(measured, verdict="holds")
        more, reason = self._more_seeds(margin, level, strict), self._why_open(margin, level, strict)
        return replace(measured, verdict="undecided", more_seeds=more, reason=reason)

    def _why_open(self, margin: float, level: float, strict: float) -> str:
        """What alone keeps the verdict open; empty where several things do."""
        if self.chance_within(margin) <= level:
            return BREAKS_WITHOUT_HOLM
        if self.from_point is None:
            return ""
        known = replace(self, draws=self.from_point, outside=np.full(len(self.from_point), self.clipped))
        if known.chance_within(margin) <= strict:
            return BREAKS_IF_BASE_KNOWN
        return HOLDS_IF_BASE_KNOWN if known.chance_beyond(margin) <= level else ""

    def _measured(self, level: float) -> RuleResult:
        """LR, loss and regret, by pairs where there are any."""
        assert self.lr is not None
        if self.paired is not None:
            bounds = self.paired.bound(level, upper=False), self.paired.bound(level, upper=True)
            evidence = "published" if published_means(self.cell.runs) else "confirmed"
            regret = (self.lr, self.paired.loss, self.paired.mean, *bounds)
            return RuleResult(*regret, evidence=evidence, seeds=self.paired.seeds)
        # A draw that fails counts as infinitely worse; between finite and infinite nothing is interpolated.
        assert self.draws is not None
        low, median, high = np.quantile(self.draws, (level, 0.5, 1 - level), method="inverted_cdf").tolist()
        return RuleResult(self.lr, self.loss, median, low, high, evidence="interpolated")

    def _more_seeds(self, margin: float, level: float, strict: float) -> int | None:
        """How many further seeds would decide, were their noise and the regret to stay as they are."""
        regret = self.paired.mean if self.paired is not None else float(np.median(self.draws))  # type: ignore[arg-type]
        breaks = regret > margin
        if breaks:
            level = strict  # it has to pass Holm's procedure
        further: list[float] = []
        if self.paired is not None:
            in_all = self.paired.seeds_to_decide(margin, level)
            further.append(math.inf if in_all is None else in_all - self.paired.seeds)
        if self.draws is not None and not self.clipped:
            further.append(self._more_for_the_curve(self.draws, margin, level, breaks))
        needed = max(further, default=math.inf)
        return None if needed > MAX_MORE_SEEDS else max(1, math.ceil(needed))

    def _more_for_the_curve(self, draws: np.ndarray, margin: float, level: float, breaks: bool) -> float:
        """Further seeds until the posterior decides, if its quantiles draw near its median as the root of the seeds.

        Infinite where its median lies on the other side of the margin than the verdict that is sought.
        """
        median = float(np.median(draws))
        bound = float(np.quantile(draws, level if breaks else 1 - level, method="inverted_cdf"))
        gap, width = (median - margin, median - bound) if breaks else (margin - median, bound - median)
        if not gap > 0 or math.isinf(width):
            return math.inf
        seeds = len({run.seed for run in self.cell.runs if run.usable})
        return max(0.0, seeds * ((width / gap) ** 2 - 1))


def holm(chances: Mapping[int, float], level: float = LEVEL) -> set[int]:
    """The batch sizes at which a rule breaks, so that all verdicts together err in at most `level`.

    Holm 1979: in rising order of p-value, the k-th of m is tested at level / (m − k + 1), and none after the
    first that isn't rejected.
    """
    breaking: set[int] = set()
    for rank, (chance, size) in enumerate(sorted((chance, size) for size, chance in chances.items())):
        if chance > level / (len(chances) - rank):
            break
        breaking.add(size)
    return breaking


def holding_range(verdicts: Mapping[int, str], base: int) -> tuple[int | None, int | None, int | None]:
    """From which batch size to which a rule holds without a gap around the base, and where it first breaks above it."""
    sizes = sorted(verdicts)
    index = sizes.index(base)
    breaks = next((size for size in sizes[index + 1 :] if verdicts[size] == "breaks"), None)
    if verdicts[base] != "holds":
        return None, None, breaks
    first = last = index
    while first > 0 and verdicts[sizes[first - 1]] == "holds":
        first -= 1
    while last + 1 < len(sizes) and verdicts[sizes[last + 1]] == "holds":
        last += 1
    return sizes[first], sizes[last], breaks
