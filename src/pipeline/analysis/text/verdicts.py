"""Sentences about the verdicts: the headline, and how far each verdict stands."""

import math
from collections.abc import Sequence

from pipeline.analysis.stats.results import STRICTER_MARGIN, VERBS, Answer, RuleResult, SensitivityCheck
from pipeline.analysis.stats.settings import Margin
from pipeline.analysis.text.wording import join, list_batches, list_batches_by

# With more batch sizes at which linear breaks, the headline doesn't say what each costs.
MOST_COSTS = 5


def headline(answer: Answer) -> str:
    """Say in one sentence how far the linear rule holds, and what it costs where it breaks."""
    base = answer.base_batch
    if not answer.others:
        return f"One batch size says nothing about a rule: run others beside {base}."
    if answer.one_lr_each:
        return "Only one LR was tried at each batch size, so no rule can be compared with anything."
    if answer.base_lr is None:
        return f"Can't say whether the linear rule holds: batch {base} has no best LR to start from."
    sizes = list_batches_by(answer.others, lambda cell: cell.rules["linear"].verdict)
    said = join([f"{verb} at {sizes[verdict]}" for verdict, verb in VERBS.items() if verdict in sizes])
    budget = f" at equal {answer.budget.split()[-1]}" if answer.budget and answer.budget != "target" else ""
    end = " It depends on the objective." if _contradict(answer.objectives) else ""
    return f"From batch {base} (LR {answer.base_lr:.2g}) the linear rule{budget} {said}.{_cost(answer)}{end}"


def _cost(answer: Answer) -> str:
    """Say how much worse linear's LR is where it breaks: ` Where it breaks it costs 31 % and 140 % more loss.`"""
    breaking = [cell.rules["linear"] for cell in answer.others if cell.rules["linear"].verdict == "breaks"]
    costs = [_share(rule) for rule in breaking if rule.reason != "diverges"]
    if not costs or None in costs or len(costs) > MOST_COSTS:
        return ""
    objective = answer.objective.rpartition("/")[2]
    fails = " or its runs fail" if len(costs) < len(breaking) else ""
    return f" Where it breaks, it costs {join([cost for cost in costs if cost])} more {objective}{fails}."


def _share(rule: RuleResult) -> str | None:
    """A rule's regret as a share of the best loss: `31 %`; None where it has none."""
    if rule.regret is None or not rule.best_loss or not math.isfinite(rule.regret):
        return None
    return f"{'over ' if rule.reason == 'at least' else ''}{100 * rule.regret / rule.best_loss:.3g} %"


def _contradict(judged: Sequence[SensitivityCheck]) -> bool:
    """Whether two objectives contradict each other: `holds` against `breaks`, or exponents that exclude each other."""
    sizes = judged[0].verdicts if judged else ()
    if any({"holds", "breaks"} <= {item.verdicts.get(size) for item in judged} for size in sizes):
        return True
    exponents = [item.exponent for item in judged if item.exponent is not None]
    return any(a.high < b.low for a in exponents for b in exponents)


def open_verdicts(answer: Answer) -> list[str]:
    """Say what keeps verdicts open: a reason, or a difference that doesn't stand out from the margin yet."""
    cells = [cell for cell in answer.others if cell.rules["linear"].verdict == "undecided"]
    lines, by_pairs = [], dict[str, list[str]]()
    for reason, sizes in list_batches_by(cells, lambda cell: cell.rules["linear"].reason).items():
        if reason and not answer.one_lr_each:
            lines.append(f"Undecided at {sizes}: {reason}.")
    for cell in cells:
        rule = cell.rules["linear"]
        if not rule.reason and rule.regret is not None:
            after = f" after {rule.seeds} pairs" if rule.evidence == "confirmed" else ""
            numbers = f"{rule.regret:.2g} ({rule.regret_low:.2g} … {rule.regret_high:.2g}) at {cell.batch}"
            by_pairs.setdefault(after, []).append(numbers)
    for after, differences in by_pairs.items():
        lines.append(f"Not settled{after}, at a margin of {answer.margin:.2g}: worse by {', '.join(differences)}.")
    return lines


def verdicts_from_other_lrs(answer: Answer) -> list[str]:
    """Say how far each verdict stands if the base LR lies elsewhere in its own interval, by each fitted curve."""
    start = answer.base.best_interval
    if start is None:
        return []
    stands, parts = [], []
    for cell in answer.others:
        verdict = cell.rules["linear"].verdict
        if verdict not in ("holds", "breaks") or cell.band_low is None or cell.band_high is None:
            continue
        factor = answer.base_batch / cell.batch
        low, high = max(cell.band_low * factor, start.low), min(cell.band_high * factor, start.high)
        if (low <= (answer.base_lr or start.value) <= high) != (verdict == "holds"):
            continue  # the curve doesn't agree with the fresh seeds: it can't say how far their verdict stands
        if (verdict == "holds" and (low, high) == (start.low, start.high)) or (verdict == "breaks" and low >= high):
            stands.append(cell)
        else:
            parts.append(f"at {cell.batch} from {low:.2g} to {high:.2g}")
    said = [f"the verdict at {list_batches(stands)} is the same"] if stands else []
    said += [f"linear would hold {', '.join(parts)}"] if parts else []
    if not said:
        return []
    return [f"With another base LR within {start.low:.2g} … {start.high:.2g}: {'; '.join(said)}."]


def stricter_verdicts(answer: Answer) -> list[str]:
    """Say what a margin of 5 % would say of the same runs, and why it isn't the default."""
    if answer.stricter is None or answer.margin_text != str(Margin()):
        return []
    verdicts = answer.stricter
    sizes = list_batches_by(answer.others, lambda cell: verdicts[cell.batch])
    said = join([f"{verb} at {sizes[verdict]}" for verdict, verb in VERBS.items() if verdict in sizes])
    if not said:
        return []
    return [
        f"With a margin of {100 * STRICTER_MARGIN:g} %, by the same runs, linear {said}. The default of "
        f"{100 * Margin().value:g} % is about what half an octave of LR costs."
    ]
