"""Sensitivity checks: are the verdicts the same from another base batch, and by another objective?"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.analysis.runs import Run, by_objective
from pipeline.analysis.stats.batch_fit import BatchFit, fit_batches
from pipeline.analysis.stats.laws import fit_exponent
from pipeline.analysis.stats.optima import estimate_optima
from pipeline.analysis.stats.results import (
    JUDGED_RULES,
    MAX_OTHER_BASES,
    STEPS_TO_TARGET,
    BatchResult,
    Estimate,
    SensitivityCheck,
)
from pipeline.analysis.stats.settings import Margin
from pipeline.analysis.stats.verdict import holding_range, judge, verdicts_on


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
    Runs that end at a target all have about the same loss, which says nothing.

    Args:
        share: the margin as a share of the best value.
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
