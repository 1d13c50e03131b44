"""Verdicts: whether each rule holds at each batch size; and whether they are the same under other choices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.analysis.runs import Run, by_objective
from pipeline.analysis.stats.batch_fit import BatchFit, fit_batches, tolerance_band
from pipeline.analysis.stats.laws import fit_exponent
from pipeline.analysis.stats.optima import estimate_optima
from pipeline.analysis.stats.regret import Regret, estimate_regret
from pipeline.analysis.stats.results import (
    BREAKS_IF_BASE_KNOWN,
    BREAKS_WITHOUT_HOLM,
    HOLDS_IF_BASE_KNOWN,
    JUDGED_RULES,
    MAX_OTHER_BASES,
    STEPS_TO_TARGET,
    BatchResult,
    Estimate,
    RuleResult,
    SensitivityCheck,
)
from pipeline.analysis.stats.settings import Margin

# One-sided significance level of a verdict.
LEVEL = 0.05


def judge(
    fits: Mapping[int, BatchFit], base: int, margin: float | None, level: float = LEVEL
) -> dict[int, BatchResult]:
    """Return the result of each batch size, with its tolerance band and the verdict on each rule.

    Args:
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
            rules[size][rule] = _judge(regret, margin, level, strictest, size in breaking, size == base)
    results = {}
    for size, fit in fits.items():
        low, high, is_open = tolerance_band(fit.result.curve, margin)
        results[size] = replace(fit.result, rules=rules[size], band_low=low, band_high=high, band_is_open=is_open)
    return results


def _judge(
    regret: Regret, margin: float | None, level: float, strictest: float, breaks: bool, is_base: bool
) -> RuleResult:
    """The verdict on one rule at one batch size; `breaks` by Holm, who tests the smallest p-value at `strictest`."""
    if regret.lr is None:
        return RuleResult(math.nan, verdict="censored", reason="the base batch has no best LR")
    failing = regret.fit.result.failing_lr
    if failing is not None and regret.lr >= failing:
        return RuleResult(regret.lr, verdict="breaks", reason="diverges")
    if is_base:
        # Each rule holds there by construction.
        loss = regret.paired.loss if regret.paired is not None else regret.loss
        return RuleResult(regret.lr, loss, 0.0, 0.0, 0.0, "holds")
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


def check_other_bases(
    fits: Mapping[int, BatchFit], base: int, margin: float | None, level: float
) -> tuple[SensitivityCheck, ...]:
    """Judge the rules from every other batch size that has a best LR, with the same absolute margin."""
    if len(fits) > MAX_OTHER_BASES:
        return ()
    return tuple(
        _check(f"from batch {size}", None, judge(fits, size, margin, level), size)
        for size, fit in fits.items()
        if size != base and fit.result.best_lr is not None
    )


def check_objectives(
    runs: Sequence[Run], objective: str, base: int, margin: Margin, share: float | None, level: float
) -> tuple[SensitivityCheck, ...]:
    """Judge the rules by every objective that the table has, `objective` first; empty if there is only one.

    Other objectives get the same share of their own best as margin, since an absolute one is in the first one's unit.
    Runs that end at a target all have about the same loss, which says nothing. `share` is the margin's.
    """
    tables = by_objective(runs, objective)
    if objective == STEPS_TO_TARGET or len(tables) < 2 or share is None:
        return ()
    checks = []
    for name, table in tables.items():
        fits = fit_batches(table)
        own_margin = margin if name == objective else Margin(share)
        exponent = fit_exponent(estimate_optima(list(fits.values()), np.random.default_rng(0)))
        batches = judge(fits, base, own_margin.absolute(fits[base].result.best_value), level)
        checks.append(_check(name, exponent, batches, base))
    return tuple(checks)


def _check(name: str, exponent: Estimate | None, batches: Mapping[int, BatchResult], base: int) -> SensitivityCheck:
    verdicts = {rule: verdicts_on(rule, batches) for rule in JUDGED_RULES}
    linear = verdicts.pop("linear")
    return SensitivityCheck(name, exponent, linear, *holding_range(linear, base), verdicts)
