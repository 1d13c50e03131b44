"""The answer as plain data: `report.json`. Other programs read its keys, so they don't change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from pipeline.analysis.stats.optima import Optima
from pipeline.analysis.stats.results import JUDGED_RULES, Answer, BatchResult, Estimate, Law
from pipeline.analysis.stats.verdict import LEVEL, holding_range

# Keys that are also attributes: of `Answer`, and of `BatchResult`.
ANSWER_KEYS = (
    *(
        "base_batch",
        "base_lr",
        "base_lr_is_given",
        "margin",
        "stricter",
        "seed_sd",
        "budget",
        "objective",
        "looks",
        "split_seed",
    ),
    *("exponent", "exponent_to_break", "holds_from", "holds_up_to", "breaks_at", "objectives", "questions"),
)
FAILED_RUN_KEYS = ("batch", "lr", "seed", "phase", "reason", "run_id")  # of `Run`
BATCH_KEYS = (
    *("batch", "best_lr", "ci_low", "ci_high", "censored", "band_low", "band_high", "band_octaves", "band_is_open"),
    *("best_value", "test_value", "steps", "seeds", "stable_lr", "failing_lr", "noise_scale", "rules"),
)


def to_json(answer: Answer) -> dict[str, Any]:
    """Convert the answer of a table of runs."""
    noise_scale = {cell.batch: cell.noise_scale for cell in answer.batches if cell.noise_scale is not None}
    return _plain(
        {name: getattr(answer, name) for name in ANSWER_KEYS}
        | {
            "batches": [_batch(cell) for cell in answer.batches],
            "rules": _rules(answer),
            "law": answer.selected_law,
            "level": LEVEL,
            "noise_scale": noise_scale,
            "failed_runs": [{name: getattr(run, name) for name in FAILED_RUN_KEYS} for run in answer.raised],
        }
    )


def law_json(optima: Optima, exponent: Estimate | None, laws: Sequence[Law], winner: str | None) -> dict[str, Any]:
    """Convert what a table of published best LRs shows."""
    batches = [
        {"batch": int(batch), "best_lr": float(2**octave)}
        for batch, octave in zip(optima.batches, optima.octaves, strict=True)
    ]
    return _plain({"batches": batches, "exponent": exponent, "rules": [_law(law) for law in laws], "law": winner})


def _batch(cell: BatchResult) -> dict[str, Any]:
    linear = cell.rules["linear"]
    return {name: getattr(cell, name) for name in BATCH_KEYS} | {
        "failed_fraction": cell.failed / cell.runs,
        "rule_lr": linear.lr,
        "regret": linear.regret,
        "regret_ci_low": linear.regret_low,
        "regret_ci_high": linear.regret_high,
        "verdict": linear.verdict,
        "evidence": linear.evidence,
        "not_distinguishing": cell.also_hold,
    }


def _rules(answer: Answer) -> list[dict[str, Any]]:
    """Describe every law and rule: its fit, and how far it holds if it was judged."""
    laws = {law.rule: _law(law) for law in answer.laws}
    unfitted: dict[str, Any] = {"parameters": {}, "aicc": None, "weight": None, "note": ""}
    rules = []
    for name in [*laws, *(rule for rule in JUDGED_RULES if rule not in laws)]:
        reach: tuple[int | None, ...] = (None, None, None)
        if name in JUDGED_RULES:
            reach = holding_range({cell.batch: cell.rules[name].verdict for cell in answer.batches}, answer.base_batch)
        holds = dict(zip(("holds_from", "holds_up_to", "breaks_at"), reach, strict=True))
        rules.append({"rule": name, **laws.get(name, unfitted), **holds})
    return rules


def _law(law: Law) -> dict[str, Any]:
    # AICc equals AIC here: its small-sample correction is zero, because the covariance of the optima is known.
    fit = {"aicc": law.aic, "weight": law.weight, "misfit": law.fit_p_value, "note": law.note}
    return {"rule": law.rule, "parameters": law.parameters, **fit}


def _plain(value: Any) -> Any:
    """Convert dataclasses to dicts and keys to text; replace NaN and infinity, which JSON lacks, by None."""
    if isinstance(value, Estimate):
        value = {"value": value.value, "ci_low": value.low, "ci_high": value.high}
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
