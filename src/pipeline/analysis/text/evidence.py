"""Sentences about what the verdicts rest on: margin, power, seeds, noise scale; and caveats."""

from pipeline.analysis.stats.results import FEW_STEPS, MAX_OTHER_BASES, Answer
from pipeline.analysis.text.wording import list_batches


def evidence_sentences(answer: Answer) -> list[str]:
    """Say what counts as a difference, what the runs can detect, and how the regrets were measured."""
    return [_margin(answer), *_power(answer), _regrets(answer), *_noise_scale(answer)]


def _margin(answer: Answer) -> str:
    if answer.margin is None:
        return "No margin: the base batch has no best loss to take a share of."
    given = [answer.margin_text] if "%" in answer.margin_text else []
    given += [answer.margin_source] if answer.margin_source else []
    source = f" ({', '.join(given)})" if given else ""
    noise = f"; seeds differ by {answer.seed_sd:.2g} (sd)" if answer.seed_sd is not None else ""
    return f"A rule holds where its {answer.objective} is within {answer.margin:.3g} of the best{source}{noise}."


def _power(answer: Answer) -> list[str]:
    others = [cell for cell in answer.batches if cell.batch != answer.base_batch]
    known = [(cell.detectable, cell.batch) for cell in others if cell.detectable is not None]
    if answer.margin is None or not known:
        return []
    (low, at_low), (high, at_high) = min(known), max(known)
    worst = f", by {high:.2g} at {at_high}" if at_high != at_low else ""
    return [
        "Power: in 80 % of simulations these runs detect an LR that is wrong by "
        f"{low:.2g} octaves (factors of 2) at batch {at_low}{worst}."
    ]


def _regrets(answer: Answer) -> str:
    text = f"Base batch {answer.base_batch} (*, {answer.base_reason}): rules start from its own best LR."
    results = [r for c in answer.batches if c.batch != answer.base_batch for r in c.rules.values() if r.evidence]
    confirmed = [result for result in results if result.evidence == "confirmed"]
    if confirmed:
        most = max(result.seeds for result in confirmed)
        text += f" Regrets (loss above the best): {most} fresh seeds at the rule's LR and at the best, in pairs"
        text += "." if len(confirmed) == len(results) else "; elsewhere interpolated."
    elif any(result.evidence == "published" for result in results):
        text += " Regrets are differences of published means."
    elif results:
        text += " Regrets are interpolated."
    if answer.looks > 1 or answer.level < 0.05:
        text += f" Look {answer.looks} at these data; each verdict is tested at {100 * answer.level:.2g} %, one-sided."
    return text


def _noise_scale(answer: Answer) -> list[str]:
    known = [cell for cell in answer.batches if cell.noise_scale is not None]
    if not known:
        return []
    text = ", ".join(f"{cell.noise_scale:.3g} at {cell.batch}" for cell in known)
    breaks = f"linear breaks at {answer.breaks_at}" if answer.breaks_at else "no break was seen"
    return [f"Gradient noise scale in examples, as last measured near the best LR: {text}; {breaks}."]


def caveats(answer: Answer) -> list[str]:
    """Warn of what these runs can't show."""
    lines = []
    if answer.budget.endswith("epochs"):
        lines.append(
            "At equal epochs only: a larger batch takes fewer steps. Equal steps (budget=steps) and steps to a target "
            "(budget=target) are other questions."
        )
    if any(cell.starved for cell in answer.batches):
        lines.append(f"† fewer than {FEW_STEPS} optimizer steps: says more about too few steps than about the rule.")
    if answer.seeds == 1:
        lines.append("One seed only: the intervals are those of this seed, not of the workload.")
    elif answer.seeds == 0 and any(cell.best_lr is not None and cell.curve is not None for cell in answer.batches):
        lines.append("The table names no seeds: if runs share one, the intervals are too narrow.")
    elif single := [cell for cell in answer.batches if cell.seeds == 1]:
        lines.append(f"One seed only at {list_batches(single)}: the interval there is that seed's.")
    if len(answer.batches) > MAX_OTHER_BASES:
        lines.append(
            f"Verdicts from other base batches are left out: there are more than {MAX_OTHER_BASES} batch sizes."
        )
    planned = round(0.05 / answer.level)
    if answer.looks > planned:
        lines.append(
            f"Looked at {answer.looks} times, {planned} planned (report.looks): the chance of a wrong verdict is up to "
            f"{100 * answer.level * answer.looks:.2g} %, not 5 %."
        )
    return lines
