"""The answer in sentences, the most important first. The screen, Markdown and the HTML page show the same ones."""

from collections.abc import Sequence

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.confirmation import MAX_SEEDS
from pipeline.analysis.stats.results import (
    BREAKS_IF_BASE_KNOWN,
    BREAKS_WITHOUT_HOLM,
    FEW_STEPS,
    HOLDS_IF_BASE_KNOWN,
    JUDGED_RULES,
    MAX_OTHER_BASES,
    VERBS,
    Answer,
    BatchResult,
    SensitivityCheck,
)
from pipeline.analysis.text.laws import exponent_sentences, fit_sentences
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
        *_from_other_bases(answer),
        *_diverging(answer),
        *_undecided(answer),
        _margin(answer),
        *_power(answer),
        _regrets(answer),
        *_noise_scale(answer),
        *_caveats(answer),
    ]


def headline(answer: Answer) -> str:
    """Say in one sentence how far the linear rule holds."""
    base = answer.base_batch
    if not answer.others:
        return f"One batch size says nothing about a rule: run others beside {base}."
    if answer.holds_up_to is None:
        return f"Can't say whether the linear rule holds: batch {base} has no best LR to start from."
    sizes = list_batches_by(answer.others, lambda cell: cell.rules["linear"].verdict)
    parts = [f"{verb} at {sizes[verdict]}" for verdict, verb in VERBS.items() if verdict in sizes]
    budget = f" at equal {answer.budget.split()[-1]}" if answer.budget and answer.budget != "target" else ""
    end = ": it depends on the objective." if _contradict(answer.objectives) else "."
    return f"The linear rule{budget}, from batch {base}, {', '.join(parts)}{end}"


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


def _contradict(judged: Sequence[SensitivityCheck]) -> bool:
    """Whether two objectives contradict each other: `holds` against `breaks`, or exponents that exclude each other."""
    sizes = judged[0].verdicts if judged else ()
    if any({"holds", "breaks"} <= {item.verdicts.get(size) for item in judged} for size in sizes):
        return True
    exponents = [item.exponent for item in judged if item.exponent is not None]
    return any(a.high < b.low for a in exponents for b in exponents)


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


def _from_other_bases(answer: Answer) -> list[str]:
    """Say which other base batches contradict a verdict: one way linear holds, the other way it breaks."""
    from_base = {cell.batch: cell.rules["linear"].verdict for cell in answer.batches}
    contradictions = []
    for item in answer.other_bases:
        back, other = item.verdicts[answer.base_batch], int(item.name.rsplit(" ", 1)[1])
        if {back, from_base[other]} == {"holds", "breaks"}:
            there = f"from {answer.base_batch} it {from_base[other]} at {other}"
            contradictions.append(f"{item.name} linear {back} at {answer.base_batch}, but {there}")
    if contradictions:
        return ["Other base batches disagree: " + "; ".join(contradictions) + "."]
    return ["No other base batch contradicts a verdict."] if len(answer.other_bases) > 1 else []


def _diverging(answer: Answer) -> list[str]:
    diverges = any(rule.reason == "diverges" for cell in answer.batches for rule in cell.rules.values())
    return ["Diverges: the rule breaks because runs fail at its LR."] if diverges else []


def _undecided(answer: Answer) -> list[str]:
    undecided = [cell for cell in answer.batches if cell.rules["linear"].verdict == "undecided"]
    if not undecided:
        return []
    seeds = {cell.batch: cell.rules["linear"].more_seeds or f"over {MAX_SEEDS}" for cell in undecided}
    needed = ", ".join(f"{count} at {batch}" for batch, count in seeds.items())
    return [
        "Undecided: these runs can't tell whether the difference is within the margin. Further seeds needed at this "
        f"noise: {needed}.",
        *_single_causes(answer, undecided),
    ]


def _single_causes(answer: Answer, undecided: Sequence[BatchResult]) -> list[str]:
    """Say where one thing alone keeps verdicts undecided: Holm's correction, or the base's uncertain best LR."""
    sizes = list_batches_by(undecided, lambda cell: cell.rules["linear"].reason)
    lines = []
    if alone := sizes.get(BREAKS_WITHOUT_HOLM):
        lines.append(
            f"Undecided only because {len(answer.others)} batch sizes are judged at once (Holm's correction): "
            f"judged alone, linear breaks at {alone}."
        )
    if_known = {"holds": HOLDS_IF_BASE_KNOWN, "breaks": BREAKS_IF_BASE_KNOWN}
    parts = [f"{verdict} at {sizes[reason]}" for verdict, reason in if_known.items() if reason in sizes]
    best = answer.base.best_interval
    if parts and best is not None:
        lines.append(
            f"Undecided only because the best LR at {answer.base_batch} is known no better than {best.low:.2g} … "
            f"{best.high:.2g}: if it is {best.value:.3g}, linear {', '.join(parts)}."
        )
    return lines


def _margin(answer: Answer) -> str:
    if answer.margin is None:
        return "No margin: the base batch has no best loss to take a share of."
    given = [answer.margin_text] if "%" in answer.margin_text else []
    given += [answer.margin_source] if answer.margin_source else []
    source = f" ({', '.join(given)})" if given else ""
    noise = f"; seeds differ by {answer.seed_sd:.2g} (sd)" if answer.seed_sd is not None else ""
    return f"A rule holds where its {answer.objective} is within {answer.margin:.3g} of the best{source}{noise}."


def _power(answer: Answer) -> list[str]:
    known = [(cell.detectable, cell.batch) for cell in answer.others if cell.detectable is not None]
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
    results = [rule for cell in answer.others for rule in cell.rules.values() if rule.evidence]
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
