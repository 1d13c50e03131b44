"""Sentences about verdicts: by other objectives, from other base batches, and what keeps one undecided."""

from collections.abc import Sequence

from pipeline.analysis.stats.confirmation import MAX_MORE_SEEDS
from pipeline.analysis.stats.results import (
    BREAKS_IF_BASE_KNOWN,
    BREAKS_WITHOUT_HOLM,
    HOLDS_IF_BASE_KNOWN,
    JUDGED_RULES,
    Answer,
    BatchResult,
)
from pipeline.analysis.text.wording import estimate_text, list_batches_where


def verdict_sentences(answer: Answer) -> list[str]:
    """Explain the verdicts of the table."""
    return [
        *_shared(answer),
        *_by_objective(answer),
        *_from_other_bases(answer),
        *_diverging(answer),
        *_undecided(answer),
    ]


def _shared(answer: Answer) -> list[str]:
    """Name the rules that hold where linear does: there the runs are no evidence for linear."""
    others = [cell for cell in answer.batches if cell.batch != answer.base_batch]

    def at(rule: str) -> str:
        return list_batches_where(others, lambda cell: rule in cell.also_hold)

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
    if any(rule.reason == "diverges" for cell in answer.batches for rule in cell.rules.values()):
        return ["Diverges: the rule breaks because runs fail at its LR."]
    return []


def _undecided(answer: Answer) -> list[str]:
    undecided = [cell for cell in answer.batches if cell.rules["linear"].verdict == "undecided"]
    if not undecided:
        return []
    seeds = {cell.batch: cell.rules["linear"].more_seeds or f"over {MAX_MORE_SEEDS}" for cell in undecided}
    needed = ", ".join(f"{count} at {batch}" for batch, count in seeds.items())
    return [
        "Undecided: these runs can't tell whether the difference is within the margin. Further seeds needed at this "
        f"noise: {needed}.",
        *_single_causes(answer, undecided),
    ]


def _single_causes(answer: Answer, undecided: Sequence[BatchResult]) -> list[str]:
    """Say where one thing alone keeps verdicts undecided: Holm's correction, or the base's uncertain best LR."""

    def at(reason: str) -> str:
        return list_batches_where(undecided, lambda cell: cell.rules["linear"].reason == reason)

    lines = []
    if alone := at(BREAKS_WITHOUT_HOLM):
        others = len(answer.batches) - 1
        lines.append(
            f"Undecided only because {others} batch sizes are judged at once (Holm's correction): "
            f"judged alone, linear breaks at {alone}."
        )
    base = next(cell for cell in answer.batches if cell.batch == answer.base_batch)
    known = {"holds": at(HOLDS_IF_BASE_KNOWN), "breaks": at(BREAKS_IF_BASE_KNOWN)}
    parts = [f"{verdict} at {sizes}" for verdict, sizes in known.items() if sizes]
    if parts and base.ci_low is not None and base.ci_high is not None:
        lines.append(
            f"Undecided only because the best LR at {base.batch} is known no better than {base.ci_low:.2g} … "
            f"{base.ci_high:.2g}: if it is {base.best_lr:.3g}, linear {', '.join(parts)}."
        )
    return lines
