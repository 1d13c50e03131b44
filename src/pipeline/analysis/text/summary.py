"""The answer in sentences, the most important first. The screen, Markdown and the HTML page show the same ones."""

from collections.abc import Sequence

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.results import FEW_STEPS, JUDGED_RULES, Answer
from pipeline.analysis.stats.table_checks import ONE_RUN_EACH, UPSIDE_DOWN
from pipeline.analysis.text.laws import exponent_sentences, fit_sentences
from pipeline.analysis.text.verdicts import headline, open_verdicts, stricter_verdicts, verdicts_from_other_lrs
from pipeline.analysis.text.wording import estimate_text, list_batches, list_batches_by

# Errors in a sentence, and runs that each is named with.
MOST_LISTED = 3


def summary(answer: Answer) -> list[str]:
    """Say everything; the first sentence is the headline."""
    return [
        headline(answer),
        *_raised(answer),
        *exponent_sentences(answer),
        *fit_sentences(answer.laws, answer.selected_law),
        *_shared(answer),
        *_by_objective(answer),
        *_diverging(answer),
        *open_verdicts(answer),
        *verdicts_from_other_lrs(answer),
        _margin(answer),
        *stricter_verdicts(answer),
        _regrets(answer),
        *_noise_scale(answer),
        *_caveats(answer),
    ]


def _raised(answer: Answer) -> list[str]:
    """Count the runs that an error ended, and name each error with some of its runs."""
    if not answer.raised:
        return []
    by_reason: dict[str, list[Run]] = {}
    for run in answer.raised:
        by_reason.setdefault(run.reason or "no reason is known", []).append(run)
    parts = [f"{reason} ({_list_some([_point(run) for run in runs])})" for reason, runs in by_reason.items()]
    count = f"{len(answer.raised)} of {sum(cell.runs for cell in answer.batches)} runs"
    return [f"{count} failed with an error, and say nothing about their LR: {_list_some(parts)}."]


def _point(run: Run) -> str:
    return f"batch {run.batch}, LR {run.lr:.3g}" + ("" if run.seed is None else f", seed {run.seed}")


def _list_some(items: Sequence[str]) -> str:
    more = [f"{len(items) - MOST_LISTED} more"] if len(items) > MOST_LISTED else []
    return "; ".join([*items[:MOST_LISTED], *more])


def _shared(answer: Answer) -> list[str]:
    """Name the rules that hold where linear does: there the runs are no evidence for linear."""

    def at(rule: str) -> str:
        return list_batches_by(answer.others, lambda cell: rule in cell.also_hold).get(True, "")

    shared = " and ".join(f"{rule} at {sizes}" for rule in JUDGED_RULES if (sizes := at(rule)))
    return [f"≈ These runs can't tell the rules apart: where linear holds, so does {shared}."] if shared else []


def _by_objective(answer: Answer) -> list[str]:
    parts = []
    for item in answer.objectives:
        exponent = "no exponent" if item.exponent is None else f"exponent {estimate_text(item.exponent)}"
        if item.holds_up_to is None:
            holds = "no verdict"
        elif item.holds_from == item.holds_up_to:
            holds = f"linear holds at {item.holds_from} only"
        else:
            holds = f"linear holds from {item.holds_from} to {item.holds_up_to}"
        breaks = f", breaks at {item.breaks_at}" if item.breaks_at else ""
        parts.append(f"by {item.name}: {exponent}, {holds}{breaks}")
    return ["Objectives compared: " + "; ".join(parts) + "."] if parts else []


def _diverging(answer: Answer) -> list[str]:
    diverges = any(rule.reason == "diverges" for cell in answer.batches for rule in cell.rules.values())
    return ["Diverges: the rule breaks because runs fail at its LR."] if diverges else []


def _margin(answer: Answer) -> str:
    if answer.margin is None:
        return "No margin: the base batch has no best loss to take a share of."
    given = [answer.margin_text] if "%" in answer.margin_text else []
    given += [answer.margin_source] if answer.margin_source else []
    source = f" ({', '.join(given)})" if given else ""
    noise = f"; seeds differ by {answer.seed_sd:.2g} (sd)" if answer.seed_sd is not None else ""
    return f"A rule holds where its {answer.objective} is within {answer.margin:.3g} of the best{source}{noise}."


def _regrets(answer: Answer) -> str:
    start = "the LR that was given" if answer.base_lr_is_given else "its own best LR"
    text = f"Base batch {answer.base_batch} (*, {answer.base_reason}): rules start from {start}, taken as exact."
    results = [rule for cell in answer.others for rule in cell.rules.values() if rule.evidence]
    confirmed = [result for result in results if result.evidence == "confirmed"]
    if confirmed:
        most = max(result.seeds for result in confirmed)
        text += f" Regrets (loss above the best): up to {most} fresh seeds at the rule's LR and at others, in pairs"
        text += "." if len(confirmed) == len(results) else "; elsewhere interpolated."
    elif any(result.evidence == "published" for result in results):
        text += " Regrets are differences of published means."
    elif results:
        text += " Regrets are interpolated."
    return text


def _noise_scale(answer: Answer) -> list[str]:
    known = [cell for cell in answer.batches if cell.noise_scale is not None]
    if not known:
        return []
    text = ", ".join(f"{cell.noise_scale:.3g} at {cell.batch}" for cell in known)
    breaks = f"linear breaks at {answer.breaks_at}" if answer.breaks_at else "no break was seen"
    return [f"Gradient noise scale in examples, as last measured near the best LR: {text}; {breaks}."]


def _caveats(answer: Answer) -> list[str]:
    """What these runs can't show."""
    lines = []
    if answer.budget.endswith("epochs"):
        lines.append(
            "At equal epochs only: a larger batch takes fewer steps. Equal steps (budget=steps) and steps to a target "
            "(budget=target) are other questions."
        )
    if any(cell.starved for cell in answer.batches):
        lines.append(f"† fewer than {FEW_STEPS} optimizer steps: says more about too few steps than about the rule.")
    if answer.seeds > 1 and answer.split_seed == "replicate":
        lines.append(
            "Each seed has a validation split of its own: the answer is about the workload, not about one split."
        )
    elif answer.seeds > 1 and answer.split_seed:
        lines.append(f"All seeds share the validation split {answer.split_seed}: the answer is about that split.")
    if UPSIDE_DOWN in answer.notes:
        lines.append("Smaller values are taken to be better. These look like accuracies: give errors, 1 − accuracy.")
    if ONE_RUN_EACH in answer.notes:
        lines.append(
            "One run at each LR: the intervals are about these runs alone. Other seeds may say something else."
        )
    elif answer.seeds == 1:
        lines.append("One seed only: the intervals are those of this seed, not of the workload.")
    elif answer.seeds == 0 and any(cell.best_lr is not None and cell.curve is not None for cell in answer.batches):
        lines.append("The table names no seeds: if runs share one, the intervals are too narrow.")
    elif single := [cell for cell in answer.batches if cell.seeds == 1]:
        lines.append(f"One seed only at {list_batches(single)}: the interval there is that seed's.")
    return lines
