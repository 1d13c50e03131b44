"""Sentences about the exponent and the fitted laws, of a table of runs or of published best LRs."""

import math
from collections.abc import Sequence

from pipeline.analysis.stats.laws import MIN_FIT_P_VALUE, MIN_WEIGHT
from pipeline.analysis.stats.optima import Optima
from pipeline.analysis.stats.results import MAX_EXPONENT_WIDTH, Answer, Estimate, Law
from pipeline.analysis.text.wording import estimate_text

# The parameter that tells laws of one kind apart, as a reader calls it.
PARAMETERS = {"exponent": "exponent", "noise_scale": "noise scale", "break_batch": "break at batch"}


def law_sentences(optima: Optima, exponent: Estimate | None, laws: Sequence[Law], winner: str | None) -> list[str]:
    """Say what a table of published best LRs shows: no runs, so no verdicts."""
    batches = [int(batch) for batch in optima.batches]
    lines = [_exponent(exponent, laws, batches)] if exponent is not None else []
    if not laws:
        lines.append("Without their intervals (ci_low, ci_high) no law can be told from another.")
    lines += fit_sentences(laws, winner)
    return [*lines, "A table of best LRs says nothing about how much worse a rule's LR is."]


def exponent_sentences(answer: Answer) -> list[str]:
    """Give the exponent of best LR ∝ batch^exponent, or say why there is none."""
    known = [cell.batch for cell in answer.batches if cell.best_lr is not None]
    if answer.exponent is None:
        return [f"{len(known)} batch size(s) have a best LR: too few for a law."] if len(answer.batches) > 2 else []
    text = _exponent(answer.exponent, answer.laws, known)
    if answer.exponent_to_break is not None:
        below = [size for size in known if size < (answer.breaks_at or math.inf)]
        text += f" Up to the break, {below[0]} … {below[-1]}: {estimate_text(answer.exponent_to_break)}."
    return [text]


def _exponent(exponent: Estimate, laws: Sequence[Law], batches: Sequence[int]) -> str:
    text = f"Best LR ∝ batch^{estimate_text(exponent)} over {batches[0]} … {batches[-1]}"
    power = next((law for law in laws if law.rule == "power"), None)
    if exponent.high - exponent.low > MAX_EXPONENT_WIDTH:
        return f"{text}: too wide to name a law."
    if power is not None and power.fit_p_value < MIN_FIT_P_VALUE:
        return f"{text}, but no single exponent fits (p = {power.fit_p_value:.2g}): it averages over a bend."
    return f"{text}; linear is 1, sqrt 0.5, fixed 0."


def fit_sentences(laws: Sequence[Law], winner: str | None) -> list[str]:
    """Name the law that fits best, or say that none stands out."""
    if not laws:
        return []
    best = laws[0]
    if winner is not None:
        return [f"Of {len(laws)} laws, {_law(best)} fits best, with Akaike weight {best.weight:.2f}."]
    if best.weight >= MIN_WEIGHT:
        numbers = f"p = {best.fit_p_value:.2g}, weight {best.weight:.2f}"
        return [f"None of {len(laws)} laws fits; the least bad is {_name(best)} ({numbers})."]
    weights = ", ".join(f"{_name(law)} {law.weight:.2f}" for law in laws[:3])
    return [f"No law stands out (that takes an Akaike weight of {MIN_WEIGHT:g}): {weights}."]


def _name(law: Law) -> str:
    return law.rule.replace("_", " ")


def _law(law: Law) -> str:
    """Name a law with its own parameter: `saturating (noise scale 120 (95 %: 60 … 240))`."""
    if law.note:
        subject = "its noise scale is " if "noise_scale" in law.parameters else ""
        return f"{_name(law)} ({subject}{law.note})"
    for key, value in law.parameters.items():
        if key in PARAMETERS:
            return f"{_name(law)} ({PARAMETERS[key]} {estimate_text(value, '.3g')})"
    return _name(law)
