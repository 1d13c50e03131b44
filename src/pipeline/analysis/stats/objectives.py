"""The verdicts by every objective that a table has: the objective decides."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.analysis.runs import Run, by_objective
from pipeline.analysis.stats.batch_fit import BatchFit, fit_batches
from pipeline.analysis.stats.laws import fit_exponent
from pipeline.analysis.stats.optima import estimate_optima
from pipeline.analysis.stats.results import JUDGED_RULES, STEPS_TO_TARGET, BatchResult, Estimate, SensitivityCheck
from pipeline.analysis.stats.settings import AnalysisSettings
from pipeline.analysis.stats.verdict import Terms, base_loss, holding_range, judge, verdicts_on


def check_objectives(
    runs: Sequence[Run],
    fits: Mapping[int, BatchFit],
    judged: Mapping[int, BatchResult],
    terms: Terms,
    settings: AnalysisSettings,
    exponent: Estimate | None,
) -> tuple[SensitivityCheck, ...]:
    """Judge the rules by every objective that the table has, the table's own first; empty if there is only one.

    All start from the same base LR, as it was used. Other objectives get the same share of their own best as margin,
    since an absolute one is in the first one's unit. Runs that end at a target all have about the same loss, which says
    nothing. `exponent` is the one by the first objective.
    """
    tables = by_objective(runs, settings.objective)
    share = settings.margin.share(fits[terms.base].result.best_value)
    if settings.objective == STEPS_TO_TARGET or len(tables) < 2 or share is None:
        return ()
    checks = [_check(settings.objective, exponent, judged, terms.base)]
    for name in list(tables)[1:]:
        others = fit_batches(tables[name])
        best = base_loss(others[terms.base], terms.looks)
        by_other = replace(terms, margin=None if best is None else share * best)
        slope = fit_exponent(estimate_optima(list(others.values()), np.random.default_rng(0)))
        checks.append(_check(name, slope, judge(others, by_other), terms.base))
    return tuple(checks)


def _check(name: str, exponent: Estimate | None, judged: Mapping[int, BatchResult], base: int) -> SensitivityCheck:
    verdicts = {rule: verdicts_on(rule, judged) for rule in JUDGED_RULES}
    linear = verdicts.pop("linear")
    return SensitivityCheck(name, exponent, linear, *holding_range(linear, base), verdicts)
