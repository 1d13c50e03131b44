"""The answer as plain data: `report.json`. Its keys are an interface: design and tests fix them."""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.analysis.stats.laws import Optima
from pipeline.analysis.stats.results import JUDGED_RULES, Answer, BatchResult, Estimate, Law, SensitivityCheck
from pipeline.analysis.stats.verdict import holding_range


def to_json(answer: Answer) -> dict[str, Any]:
    """Convert the answer of a table of runs."""
    return {
        "base_batch": answer.base_batch,
        "margin": answer.margin,
        "seed_sd": answer.seed_sd,
        "budget": answer.budget,
        "objective": answer.objective,
        "level": answer.level,
        "looks": answer.looks,
        "batches": [_batch(cell) for cell in answer.batches],
        "exponent": _estimate(answer.exponent),
        "exponent_to_break": _estimate(answer.exponent_to_break),
        "holds_from": answer.holds_from,
        "holds_up_to": answer.holds_up_to,
        "breaks_at": answer.breaks_at,
        "rules": _rules(answer),
        "law": answer.selected_law,
        "noise_scale": {str(cell.batch): cell.noise_scale for cell in answer.batches if cell.noise_scale is not None},
        "anchors": [_judged(item) for item in answer.other_bases],
        "objectives": [_judged(item) for item in answer.objectives],
        "questions": [vars(item) for item in answer.questions],
    }


def law_json(optima: Optima, exponent: Estimate | None, laws: Sequence[Law], winner: str | None) -> dict[str, Any]:
    """Convert what a table of published best LRs shows."""
    batches = [
        {"batch": int(batch), "best_lr": float(2**octave)}
        for batch, octave in zip(optima.batches, optima.octaves, strict=True)
    ]
    return {"batches": batches, "exponent": _estimate(exponent), "rules": [_law(law) for law in laws], "law": winner}


def _batch(cell: BatchResult) -> dict[str, Any]:
    linear = cell.rules["linear"]
    return {
        "batch": cell.batch,
        "best_lr": cell.best_lr,
        "ci_low": cell.ci_low,
        "ci_high": cell.ci_high,
        "censored": cell.censored,
        "band_low": cell.band_low,
        "band_high": cell.band_high,
        "band_octaves": cell.band_octaves,
        "best_value": cell.best_value,
        "test_value": cell.test_value,
        "steps": cell.steps,
        "failed_fraction": cell.failed / cell.runs,
        "stable_lr": cell.stable_lr,
        "failing_lr": cell.failing_lr,
        "noise_scale": cell.noise_scale,
        "seeds": cell.seeds,
        "band_is_open": cell.band_is_open,
        "detectable_octaves": cell.detectable,
        "rule_lr": _finite(linear.lr),
        "regret": _finite(linear.regret),
        "regret_ci_low": _finite(linear.regret_low),
        "regret_ci_high": _finite(linear.regret_high),
        "verdict": linear.verdict,
        "not_distinguishing": list(cell.also_hold),
        "evidence": linear.evidence,
        "rules": {name: {k: _finite(v) for k, v in vars(rule).items()} for name, rule in cell.rules.items()},
    }


def _rules(answer: Answer) -> list[dict[str, Any]]:
    """Every law and rule: its fit, and how far it holds if it was judged."""
    laws = {law.rule: _law(law) for law in answer.laws}
    unfitted: dict[str, Any] = {"parameters": {}, "aicc": None, "weight": None, "note": ""}
    found = []
    for name in [*laws, *(rule for rule in JUDGED_RULES if rule not in laws)]:
        holds_from, holds_up_to, breaks_at = None, None, None
        if name in JUDGED_RULES:
            verdicts = {cell.batch: cell.rules[name].verdict for cell in answer.batches}
            holds_from, holds_up_to, breaks_at = holding_range(verdicts, answer.base_batch)
        reach = {"holds_from": holds_from, "holds_up_to": holds_up_to, "breaks_at": breaks_at}
        found.append({"rule": name} | unfitted | laws.get(name, {}) | reach)
    return found


def _law(law: Law) -> dict[str, Any]:
    return {
        "rule": law.rule,
        "parameters": {name: _estimate(value) for name, value in law.parameters.items()},
        # Readers know the name. AICc equals AIC here: the optima's covariance is known, so there is no correction.
        "aicc": law.aic,
        "weight": law.weight,
        "misfit": law.fit_p_value,
        "note": law.note,
    }


def _judged(item: SensitivityCheck) -> dict[str, Any]:
    def keyed(verdicts: Any) -> dict[str, str]:
        return {str(batch): verdict for batch, verdict in verdicts.items()}

    others = {rule: keyed(verdicts) for rule, verdicts in item.others.items()}
    return vars(item) | {"verdicts": keyed(item.verdicts), "others": others, "exponent": _estimate(item.exponent)}


def _estimate(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {"value": estimate.value, "ci_low": _finite(estimate.low), "ci_high": _finite(estimate.high)}


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
