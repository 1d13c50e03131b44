"""Verdicts: whether each rule holds at each batch size, with a correction for several batch sizes."""

import math
from collections.abc import Mapping
from dataclasses import replace

from pipeline.analysis.stats.batch_fit import BatchFit, tolerance_band
from pipeline.analysis.stats.regret import Regret, estimate_regret
from pipeline.analysis.stats.results import (
    BREAKS_IF_BASE_KNOWN,
    BREAKS_WITHOUT_HOLM,
    HOLDS_IF_BASE_KNOWN,
    JUDGED_RULES,
    BatchResult,
    RuleResult,
)

# One-sided significance level of a verdict.
LEVEL = 0.05


def judge(
    fits: Mapping[int, BatchFit], base: int, margin: float | None, level: float = LEVEL
) -> dict[int, BatchResult]:
    """Return the result of each batch size, with its tolerance band and the verdict on each rule.

    Args:
        fits: by batch size.
        base: the batch size that the rules start from.
        margin: the largest regret that counts as none, in the objective's unit; None where it isn't known.
        level: one-sided significance level; for `breaks`, of all batch sizes together.
    """
    rules: dict[int, dict[str, RuleResult]] = {size: {} for size in fits}
    for rule, exponent in JUDGED_RULES.items():
        regrets = {size: estimate_regret(fit, fits[base], exponent) for size, fit in fits.items()}
        p_values = {
            size: regret.p_value_breaks(margin)
            for size, regret in regrets.items()
            if size != base and margin is not None and regret.has_evidence
        }
        breaking = holm(p_values, level)
        strictest = level / max(1, len(p_values))
        for size, regret in regrets.items():
            if size == base:
                rules[size][rule] = _at_base(regret)
            else:
                rules[size][rule] = _judge(regret, margin, level, strictest, size in breaking)
    results = {}
    for size, fit in fits.items():
        low, high, is_open = tolerance_band(fit.result.curve, margin)
        results[size] = replace(fit.result, rules=rules[size], band_low=low, band_high=high, band_is_open=is_open)
    return results


def _without_regret(regret: Regret) -> RuleResult | None:
    """The verdict where the rule has no LR, or one that is known to fail; else None."""
    if regret.lr is None:
        return RuleResult(math.nan, verdict="censored", reason="the base batch has no best LR")
    failing = regret.fit.result.failing_lr
    if failing is not None and regret.lr >= failing:
        return RuleResult(regret.lr, verdict="breaks", reason="diverges")
    return None


def _at_base(regret: Regret) -> RuleResult:
    """Each rule holds at the base batch by construction."""
    if known := _without_regret(regret):
        return known
    assert regret.lr is not None
    loss = regret.paired.loss if regret.paired is not None else regret.loss
    return RuleResult(regret.lr, loss, 0.0, 0.0, 0.0, "holds")


def _judge(regret: Regret, margin: float | None, level: float, strictest: float, breaks: bool) -> RuleResult:
    """The verdict at another batch size than the base.

    Args:
        breaks: whether Holm's procedure, with the level `strictest` for its smallest p-value, found that it breaks.
    """
    if known := _without_regret(regret):
        return known
    assert regret.lr is not None
    outside = RuleResult(regret.lr, verdict="censored", reason="outside what was tried")
    if regret.is_untried and regret.draws is not None:
        return outside
    if not regret.has_evidence or margin is None:
        return RuleResult(regret.lr, verdict="undecided", reason="too few runs")
    measured = regret.measured(level)
    only_lower_bound = regret.is_clipped and regret.paired is None
    if breaks and only_lower_bound:
        return replace(measured, regret_high=math.inf, verdict="breaks", reason="at least")
    if breaks:
        return replace(measured, verdict="breaks")
    if only_lower_bound:
        return outside
    if regret.fit.result.censored:
        return replace(measured, verdict="censored", reason="the best may lie beyond what was tried")
    if regret.p_value_holds(margin) <= level:
        return replace(measured, verdict="holds")
    more_seeds = regret.more_seeds(margin, level_holds=level, level_breaks=strictest)
    reason = _why_undecided(regret, margin, level, strictest)
    return replace(measured, verdict="undecided", more_seeds=more_seeds, reason=reason)


def _why_undecided(regret: Regret, margin: float, level: float, strictest: float) -> str:
    """The one thing that keeps a verdict undecided; empty where there are several."""
    if regret.p_value_breaks(margin) <= level:
        return BREAKS_WITHOUT_HOLM
    if_base_known = regret.if_base_known()
    if if_base_known is None:
        return ""
    if if_base_known.p_value_breaks(margin) <= strictest:
        return BREAKS_IF_BASE_KNOWN
    return HOLDS_IF_BASE_KNOWN if if_base_known.p_value_holds(margin) <= level else ""


def holm(p_values: Mapping[int, float], level: float = LEVEL) -> set[int]:
    """Return the batch sizes at which a rule breaks, by Holm's procedure: at most `level` that any of them is wrong.

    In increasing order of p-value, the k-th of m is tested at level / (m − k + 1); the first that is not significant
    ends the procedure (Holm 1979, Scandinavian Journal of Statistics 6:65).
    """
    breaking: set[int] = set()
    for rank, (p_value, size) in enumerate(sorted((p_value, size) for size, p_value in p_values.items())):
        if p_value > level / (len(p_values) - rank):
            break
        breaking.add(size)
    return breaking


def verdicts_on(rule: str, batches: Mapping[int, BatchResult]) -> dict[int, str]:
    """Return the verdicts on one rule by batch size."""
    return {size: result.rules[rule].verdict for size, result in batches.items()}


def holding_range(verdicts: Mapping[int, str], base: int) -> tuple[int | None, int | None, int | None]:
    """Return the ends of the range around the base in which a rule holds at each batch size, and where it breaks.

    Where it breaks is the smallest batch size above the base with that verdict; None where there is none.
    """
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
