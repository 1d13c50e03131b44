"""Verdicts: whether each rule holds at each batch size.

The rule's LR is compared with others by pairs of fresh seeds: with the best LR of the search's curve, and with those an
octave above and below, so that a badly located best LR can't make a rule hold. A rule holds if it is within the margin
of *every* such LR (an intersection-union test, which needs no correction: Berger 1982, Technometrics 24:295). It breaks
if it is beyond the margin of *some* LR, with Bonferroni's correction for all comparisons of the study. Both are tested
at a group-sequential level at each look (`sequential`). Without fresh seeds, the fitted curve decides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.analysis.runs import published_means
from pipeline.analysis.stats.batch_fit import BatchFit, tolerance_band
from pipeline.analysis.stats.pairs import compare_pairs, compare_published, same_lr, seeds_at
from pipeline.analysis.stats.regret import curve_regret, is_worse_around, was_tried
from pipeline.analysis.stats.results import JUDGED_RULES, BatchResult, RuleResult
from pipeline.analysis.stats.sequential import nominal_level
from pipeline.analysis.stats.settings import AnalysisSettings

# One-sided significance level of a verdict; of `breaks`, of all verdicts on a rule together.
LEVEL = 0.05
# LRs within this many octaves need no comparison: their losses hardly differ.
SAME_PLACE_OCTAVES = 0.125
# Where no look is planned, so many pairs are enough to be compared.
FEWEST_PAIRS = 2


@dataclass(frozen=True)
class Terms:
    """On which terms the batch sizes of a table are judged.

    Attributes:
        base, base_lr: where the rules start; the LR is taken as exact, None where it isn't known.
        margin: the largest regret that counts as none, in the objective's unit; None where it isn't known.
        looks: as in `AnalysisSettings`.
        batches, comparisons: how many verdicts on a rule there are, and comparisons with other LRs behind them.
    """

    base: int
    base_lr: float | None
    margin: float | None
    looks: tuple[int, ...] = ()
    batches: int = 1
    comparisons: int = 1

    def lr_at(self, batch: int, exponent: float) -> float:
        """Return the LR of the rule LR ∝ batch^exponent; NaN where the base LR isn't known."""
        return math.nan if self.base_lr is None else self.base_lr * (batch / self.base) ** exponent


def make_terms(fits: Mapping[int, BatchFit], base: int, settings: AnalysisSettings) -> Terms:
    """Return the terms that follow from the settings and the search."""
    looks = settings.looks
    base_lr = given_base_lr(base, settings) or start_of_rules(fits[base])
    margin = settings.margin.absolute(base_loss(fits[base], looks))
    terms = Terms(base, base_lr, margin, looks, max(1, len(fits) - 1))
    compared = (len(compared_lrs(fit, terms.lr_at(size, 1.0))) for size, fit in fits.items() if size != base)
    return replace(terms, comparisons=max(1, sum(compared)))


def given_base_lr(base: int, settings: AnalysisSettings) -> float | None:
    """Return the LR that the user tuned at the configured base batch; None where the rules start elsewhere."""
    return settings.base_lr if settings.configured_base in (None, base) else None


def start_of_rules(base: BatchFit) -> float | None:
    """Return the best LR that the search found at the base batch, from which the rules start; None without one."""
    if base.search_best is None or base.result.best_lr is None:
        return base.result.best_lr
    return base.search_best


def base_loss(base: BatchFit, looks: Sequence[int]) -> float | None:
    """Return the best loss at the base batch: of the fresh seeds of the first look, else by the search's curve."""
    seeds = {} if base.search_best is None else seeds_at(base.fresh, base.search_best)
    first = looks[0] if looks else max(FEWEST_PAIRS, len(seeds))
    values = [seeds[seed] for seed in sorted(seeds)[:first] if math.isfinite(seeds[seed])]
    return float(np.mean(values)) if len(seeds) >= first and values else base.result.best_value


def compared_lrs(fit: BatchFit, lr: float) -> tuple[float, ...]:
    """Return the LRs that fresh seeds compare with a rule's: its neighbours, an octave away, and the search's best.

    LRs that fail in the search are left out; there are none where the rule's own LR is one, or isn't known.
    """
    if not lr < fit.search_failing or fit.search_best is None:
        return ()
    lrs = [other for other in (lr / 2, lr * 2) if other < fit.search_failing]
    if not any(same_lr(fit.search_best, other, SAME_PLACE_OCTAVES) for other in (lr, *lrs)):
        lrs.append(fit.search_best)
    return tuple(lrs)


def judge(fits: Mapping[int, BatchFit], terms: Terms) -> dict[int, BatchResult]:
    """Return the result of each batch size, with its tolerance band and the verdict on each rule."""
    results = {}
    for size, fit in fits.items():
        low, high, is_open = tolerance_band(fit.result.curve, terms.margin)
        rules = {rule: _judge(fit, terms.lr_at(size, exponent), terms) for rule, exponent in JUDGED_RULES.items()}
        results[size] = replace(fit.result, rules=rules, band_low=low, band_high=high, band_is_open=is_open)
    return results


def _judge(fit: BatchFit, lr: float, terms: Terms) -> RuleResult:
    """The verdict on an LR at one batch size, by the best evidence that there is."""
    if math.isnan(lr):
        return RuleResult(lr, verdict="censored", reason="the base batch has no best LR")
    if fit.result.failing_lr is not None and lr >= fit.result.failing_lr:
        return RuleResult(lr, verdict="breaks", reason="diverges")
    if fit.result.batch == terms.base:
        return _at_base(fit, lr, terms)
    if terms.margin is None:
        return RuleResult(lr, verdict="undecided", reason="too few runs")
    by_seeds = judge_by_means(fit, lr, terms) or judge_by_pairs(fit, lr, terms)
    return by_seeds or judge_by_curve(fit, lr, terms)


def _at_base(fit: BatchFit, lr: float, terms: Terms) -> RuleResult:
    """Each rule holds at the base batch by construction."""
    by_curve = curve_regret(fit, lr)
    is_best = fit.search_best is None or same_lr(lr, fit.search_best, SAME_PLACE_OCTAVES)
    best = base_loss(fit, terms.looks) if is_best else fit.result.best_value
    loss = best if is_best or by_curve is None else by_curve.loss
    return RuleResult(lr, loss, best, 0.0, 0.0, 0.0, "holds")


def judge_by_pairs(fit: BatchFit, lr: float, terms: Terms) -> RuleResult | None:
    """Return the verdict of the first look that decides, by fresh seeds in their order; None without a full look."""
    assert terms.margin is not None
    there = seeds_at(fit.fresh, lr)
    fewest = terms.looks[0] if terms.looks else FEWEST_PAIRS
    others = {other: seeds for other, seeds in fit.fresh.items() if not same_lr(other, lr)}
    pairs = {other: len(there.keys() & seeds.keys()) for other, seeds in others.items()}
    others = {other: seeds for other, seeds in others.items() if pairs[other] >= fewest}
    if not others:
        return None
    planned = [other for other in others if any(same_lr(other, asked) for asked in compared_lrs(fit, lr))]
    most = min(pairs[other] for other in planned or others)
    level_holds = nominal_level(terms.looks, LEVEL)
    level_breaks = nominal_level(terms.looks, LEVEL / terms.comparisons)
    result = None
    for look in [look for look in terms.looks if look <= most] or [most]:
        found = [compare_pairs(there, seeds, look) for other, seeds in others.items() if pairs[other] >= look]
        known = [comparison for comparison in found if comparison is not None]
        if not known:
            continue
        worst = max(known, key=lambda comparison: comparison.mean)
        regret = worst.regret(level_holds)
        result = RuleResult(lr, worst.loss, worst.other_loss, *regret, evidence="confirmed", seeds=worst.seeds)
        if any(comparison.p_value_above(terms.margin) <= level_breaks for comparison in known):
            return replace(result, verdict="breaks")
        if all(comparison.p_value_below(terms.margin) <= level_holds for comparison in known):
            return _if_located(fit, lr, replace(result, verdict="holds"), terms)
    return result


def _if_located(fit: BatchFit, lr: float, holds: RuleResult, terms: Terms) -> RuleResult:
    """The verdict `holds`, unless a better LR may lie where no fresh seed ran."""
    if fit.result.censored and not _ends_at_wall(fit):
        return replace(holds, verdict="censored", reason="the best may lie beyond what was tried")
    sides = (lr / 2, lr * 2)
    if all(side >= fit.search_failing or seeds_at(fit.fresh, side) for side in sides):
        return holds
    # Its neighbours were not run, as in tables from elsewhere: the curve has to agree.
    by_curve = curve_regret(fit, lr)
    if by_curve is None or by_curve.is_clipped or by_curve.p_value_below(terms.margin or 0.0) <= LEVEL:
        return holds
    return replace(holds, verdict="undecided", reason="the fitted curve doesn't agree")


def _ends_at_wall(fit: BatchFit) -> bool:
    """Whether the best LR lies just below one that fails, so that nothing better can lie beyond."""
    best, failing = fit.search_best, fit.result.failing_lr
    return fit.result.censored == "high" and best is not None and failing is not None and failing <= 2 * best


def judge_by_means(fit: BatchFit, lr: float, terms: Terms) -> RuleResult | None:
    """Return the verdict by published means; None where the table has none, or not at this LR."""
    assert terms.margin is not None
    comparison = compare_published(fit.runs, lr) if published_means(fit.runs) else None
    if comparison is None:
        return None
    worse = comparison.regret(LEVEL)
    result = RuleResult(
        lr, comparison.loss, comparison.other_loss, *worse, evidence="published", seeds=comparison.seeds
    )
    if comparison.p_value_above(terms.margin) <= LEVEL / terms.batches:
        return replace(result, verdict="breaks")
    if fit.result.censored:
        return replace(result, verdict="censored", reason="the best may lie beyond what was tried")
    return replace(result, verdict="holds") if comparison.p_value_below(terms.margin) <= LEVEL else result


def judge_by_curve(fit: BatchFit, lr: float, terms: Terms) -> RuleResult:
    """Return the verdict by the fitted curve."""
    assert terms.margin is not None
    by_curve = curve_regret(fit, lr)
    if by_curve is None:
        reason = "only one LR was tried" if fit.result.lrs == 1 else "too few runs"
        return RuleResult(lr, verdict="undecided", reason=reason)
    if not was_tried(fit, lr):
        return RuleResult(lr, verdict="censored", reason="outside what was tried")
    result = by_curve.measured(LEVEL)
    breaks = by_curve.p_value_above(terms.margin) <= LEVEL / terms.batches
    if by_curve.is_clipped:
        # The loss only gets worse beyond the curve, so the regret is a lower bound.
        if breaks or is_worse_around(fit, lr, terms.margin):
            return replace(result, regret_high=math.inf, verdict="breaks", reason="at least")
        return RuleResult(lr, verdict="undecided", reason="too few runs near this LR")
    if breaks:
        return replace(result, verdict="breaks")
    if fit.result.censored:
        return replace(result, verdict="censored", reason="the best may lie beyond what was tried")
    return replace(result, verdict="holds") if by_curve.p_value_below(terms.margin) <= LEVEL else result


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
