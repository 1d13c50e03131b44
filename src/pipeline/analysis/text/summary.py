"""The answer in sentences, the most important first."""

import itertools
import math
from collections.abc import Callable, Sequence

from pipeline.analysis.stats.confirmation import MOST_SEEDS
from pipeline.analysis.stats.laws import MISFIT, WINNING_WEIGHT, Optima
from pipeline.analysis.stats.results import (
    BREAKS_ALONE,
    BREAKS_FROM_POINT,
    FEW_STEPS,
    HOLDS_FROM_POINT,
    MOST_ANCHORS,
    WIDEST_EXPONENT,
    Answer,
    BatchResult,
    Estimate,
    Judged,
    Law,
)

# More batch sizes in a row than this are given as a range.
MOST_NAMED = 3
VERDICTS = ("holds", "breaks", "undecided", "censored")
_PARAMETERS = {"exponent": "exponent", "noise_scale": "noise scale", "break_batch": "break at batch"}


def summary(answer: Answer) -> list[str]:
    """The answer in sentences; the first is the headline."""
    return [
        headline(answer),
        *_exponents(answer),
        *_laws(answer),
        *_rules_alike(answer),
        *_objectives(answer),
        *_anchors(answer),
        *_undecided(answer),
        *_margin(answer),
        *_evidence(answer),
        *_noise_scales(answer),
        *_caveats(answer),
    ]


def headline(answer: Answer) -> str:
    """How far the linear rule holds, in one sentence."""
    base = answer.base_batch
    others = [cell for cell in answer.batches if cell.batch != base]
    budget = f" at equal {answer.budget.split()[-1]}" if answer.budget and answer.budget != "target" else ""
    if not others:
        return f"One batch size says nothing about a rule: run others beside {base}."
    if answer.holds_up_to is None:
        return f"Whether the linear rule holds can't be said: batch {base} has no best LR to start from."
    found = {verdict: _judged(others, verdict) for verdict in VERDICTS}
    parts = [f"{verdict} at {sizes}" for verdict in ("holds", "breaks") if (sizes := found[verdict])]
    parts += [f"is {verdict} at {sizes}" for verdict in ("undecided", "censored") if (sizes := found[verdict])]
    sentence = f"The linear rule{budget}, from batch {base}, " + ", ".join(parts)
    return sentence + (": it depends on the objective." if _differ(answer.objectives) else ".")


def _judged(cells: Sequence[BatchResult], verdict: str) -> str:
    """The batch sizes with a verdict on linear."""
    return _sizes(cells, lambda cell: cell.rules["linear"].verdict == verdict)


def _sizes(cells: Sequence[BatchResult], of: Callable[[BatchResult], bool]) -> str:
    """The batch sizes of which something is so; four or more in a row as `32 … 256`."""
    parts: list[str] = []
    for same, group in itertools.groupby(cells, key=of):
        sizes = [str(cell.batch) for cell in group]
        if same:
            parts += sizes if len(sizes) <= MOST_NAMED else [f"{sizes[0]} … {sizes[-1]}"]
    return ", ".join(parts)


def _differ(judged: Sequence[Judged]) -> bool:
    """Whether two objectives contradict each other: `holds` against `breaks`, or exponents that exclude each other."""
    sizes = judged[0].verdicts if judged else ()
    if any({"holds", "breaks"} <= {item.verdicts.get(size) for item in judged} for size in sizes):
        return True
    slopes = [item.exponent for item in judged if item.exponent is not None]
    return any(a.high < b.low for a in slopes for b in slopes)


def _exponents(answer: Answer) -> list[str]:
    known = [cell.batch for cell in answer.batches if cell.best_lr is not None]
    if answer.exponent is None:
        return [f"{len(known)} batch size(s) have a best LR: too few for a law."] if len(answer.batches) > 2 else []
    text = _exponent(answer.exponent, answer.laws, known)
    if answer.exponent_to_break is not None:
        below = [size for size in known if size < (answer.breaks_at or math.inf)]
        text += f" Up to the break, {below[0]} … {below[-1]}: {_estimate(answer.exponent_to_break)}."
    return [text]


def _exponent(exponent: Estimate, laws: Sequence[Law], batches: Sequence[int]) -> str:
    text = f"Best LR ∝ batch^{_estimate(exponent)} over {batches[0]} … {batches[-1]}"
    power = next((law for law in laws if law.rule == "power"), None)
    if exponent.high - exponent.low > WIDEST_EXPONENT:
        return f"{text}: too wide to name a law."
    if power is not None and power.misfit < MISFIT:
        return f"{text}, but no single exponent fits (p = {power.misfit:.2g}): it averages over a bend."
    return f"{text}; linear is 1, sqrt 0.5, fixed 0."


def law_sentences(optima: Optima, exponent: Estimate | None, laws: Sequence[Law], winner: str | None) -> list[str]:
    """What a table of best LRs says by itself."""
    batches = [int(batch) for batch in optima.batches]
    first = [_exponent(exponent, laws, batches)] if exponent is not None else []
    unknown = ["Without their intervals (ci_low, ci_high) no law can be told from another."] if not laws else []
    last = "A table of best LRs says nothing about how much worse a rule's LR is."
    return [*first, *unknown, *_named(laws, winner), last]


def _estimate(estimate: Estimate, digits: str = ".2f") -> str:
    high = "∞" if math.isinf(estimate.high) else f"{estimate.high:{digits}}"
    return f"{estimate.value:{digits}} (95 %: {estimate.low:{digits}} … {high})"


def _laws(answer: Answer) -> list[str]:
    return _named(answer.laws, answer.winner)


def _named(laws: Sequence[Law], winner: str | None) -> list[str]:
    if not laws:
        return []
    if winner is not None:
        return [f"Of {len(laws)} laws {_law(laws[0])} fits best, with weight {laws[0].weight:.2f}."]
    if laws[0].weight >= WINNING_WEIGHT:
        name, weight = laws[0].rule.replace("_", " "), f"weight {laws[0].weight:.2f}"
        return [f"None of {len(laws)} laws fits; the least bad is {name} (p = {laws[0].misfit:.2g}, {weight})."]
    shares = ", ".join(f"{law.rule.replace('_', ' ')} {law.weight:.2f}" for law in laws[:3])
    return [f"No law is singled out (it needs a weight of 0.9): {shares}."]


def _law(law: Law) -> str:
    """A law with its own parameter: `saturating (noise scale 120, 95 %: 60 … 240)`."""
    name = law.rule.replace("_", " ")
    if law.note:
        return f"{name} (its noise scale is {law.note})" if "noise_scale" in law.parameters else f"{name} ({law.note})"
    for key, value in law.parameters.items():
        if key in _PARAMETERS:
            return f"{name} ({_PARAMETERS[key]} {_estimate(value, '.3g')})"
    return name


def _rules_alike(answer: Answer) -> list[str]:
    others = [cell for cell in answer.batches if cell.batch != answer.base_batch]

    def at(rule: str) -> str:
        return _sizes(others, lambda cell: rule in cell.alike)

    also = [f"{rule} at {at(rule)}" for rule in ("sqrt", "fixed") if at(rule)]
    return [f"≈ Not distinguishing: where linear holds, so does {' and '.join(also)}."] if also else []


def _objectives(answer: Answer) -> list[str]:
    if not answer.objectives:
        return []
    parts = []
    for item in answer.objectives:
        slope = "no exponent" if item.exponent is None else f"exponent {_estimate(item.exponent)}"
        reach = "unknown" if item.holds_up_to is None else f"holds from {item.holds_from} to {item.holds_up_to}"
        breaks = f", breaks at {item.breaks_at}" if item.breaks_at else ""
        parts.append(f"by {item.name} {slope}, {reach}{breaks}")
    return ["Linear, " + "; ".join(parts) + "."]


def _anchors(answer: Answer) -> list[str]:
    """Where another base turns a verdict round."""
    from_base = {cell.batch: cell.rules["linear"].verdict for cell in answer.batches}
    decided = {"holds", "breaks"}
    turned = []
    for item in answer.anchors:
        back = item.verdicts[answer.base_batch]
        anchor = int(item.name.rsplit(" ", 1)[1])
        if {back, from_base[anchor]} == decided:
            there = f"from {answer.base_batch} it {from_base[anchor]} at {anchor}"
            turned.append(f"{item.name} linear {back} at {answer.base_batch}, but {there}")
    if turned:
        return ["Other anchors disagree: " + "; ".join(turned) + "."]
    return ["No other anchor turns a verdict round."] if len(answer.anchors) > 1 else []


def _undecided(answer: Answer) -> list[str]:
    lines = []
    everything = [result for cell in answer.batches for result in cell.rules.values()]
    if any(result.reason == "diverges" for result in everything):
        lines.append("Diverges: breaks, for the rule's LR is one at which runs fail.")
    undecided = [cell for cell in answer.batches if cell.rules["linear"].verdict == "undecided"]
    if undecided:
        seeds = {cell.batch: cell.rules["linear"].more_seeds for cell in undecided}
        needed = [f"{count or f'over {MOST_SEEDS}'} at {batch}" for batch, count in seeds.items()]
        lines.append(
            "Undecided: these runs can't tell whether the difference is within the margin. Further seeds that would, "
            f"at this noise: {', '.join(needed)}."
        )
    return [*lines, *_open_because(answer, undecided)]


def _open_because(answer: Answer, undecided: Sequence[BatchResult]) -> list[str]:
    """Where a single thing keeps verdicts open: Holm's correction, or how well the base batch's best LR is known."""

    def at(reason: str) -> str:
        return _sizes(undecided, lambda cell: cell.rules["linear"].reason == reason)

    lines = []
    if alone := at(BREAKS_ALONE):
        others = len(answer.batches) - 1
        lines.append(f"Open only because {others} batch sizes are judged at once (Holm): alone it breaks at {alone}.")
    base = next(cell for cell in answer.batches if cell.batch == answer.base_batch)
    known = {"holds": at(HOLDS_FROM_POINT), "breaks": at(BREAKS_FROM_POINT)}
    parts = [f"{verdict} at {sizes}" for verdict, sizes in known.items() if sizes]
    if parts and base.ci_low is not None and base.ci_high is not None:
        lines.append(
            f"Open only because the best LR at {base.batch} is not known better than {base.ci_low:.2g} … "
            f"{base.ci_high:.2g}: were it {base.best_lr:.3g}, linear {', '.join(parts)}."
        )
    return lines


def _margin(answer: Answer) -> list[str]:
    if answer.margin is None:
        return ["No margin: the base batch has no best loss to take a share of."]
    noise = f"; seeds differ by {answer.seed_sd:.2g} (sd)" if answer.seed_sd is not None else ""
    given = f", {answer.margin_text}" if "%" in answer.margin_text else ""
    given += f", {answer.margin_source}" if answer.margin_source else ""
    lines = [f"A rule holds where its {answer.objective} is within {answer.margin:.3g} of the best{given}{noise}."]
    others = [cell for cell in answer.batches if cell.batch != answer.base_batch]
    known = [(cell.detectable, cell.batch) for cell in others if cell.detectable is not None]
    if known:
        (low, at_low), (high, at_high) = min(known), max(known)
        worst = f", from {high:.2g} on at {at_high}" if at_high != at_low else ""
        lines.append(
            "Power: in 80 % of simulations this design calls an LR wrong from "
            f"{low:.2g} octaves on at batch {at_low}{worst}."
        )
    return lines


def _evidence(answer: Answer) -> list[str]:
    base = f"Base batch {answer.base_batch} (*, {answer.base_reason}): rules start from its own best LR."
    results = [r for c in answer.batches if c.batch != answer.base_batch for r in c.rules.values() if r.evidence]
    confirmed = [result for result in results if result.evidence == "confirmed"]
    if confirmed:
        most = max(result.seeds for result in confirmed)
        base += f" Regrets: {most} fresh seeds at the rule's LR and at the best, in pairs"
        base += "." if len(confirmed) == len(results) else "; elsewhere interpolated."
    elif any(result.evidence == "published" for result in results):
        base += " Regrets are differences of published means."
    elif results:
        base += " Regrets are interpolated."
    if answer.looks > 1 or answer.level < 0.05:
        base += f" Look {answer.looks}; each verdict at {100 * answer.level:.2g} %, one-sided."
    return [base]


def _noise_scales(answer: Answer) -> list[str]:
    known = [cell for cell in answer.batches if cell.noise_scale is not None]
    if not known:
        return []
    text = ", ".join(f"{cell.noise_scale:.3g} at {cell.batch}" for cell in known)
    breaks = f"linear breaks at {answer.breaks_at}" if answer.breaks_at else "no break was seen"
    return [f"Gradient noise scale in examples, as last measured near the best LR: {text}; {breaks}."]


def _caveats(answer: Answer) -> list[str]:
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
        lines.append("No seeds are named: where runs share one, the intervals are too narrow.")
    elif single := [cell for cell in answer.batches if cell.seeds == 1]:
        names = ", ".join(str(cell.batch) for cell in single)
        lines.append(f"One seed only at {names}: its interval there is that seed's.")
    if len(answer.batches) > MOST_ANCHORS:
        lines.append(f"Verdicts from other base batches are left out: there are more than {MOST_ANCHORS} batch sizes.")
    planned = round(0.05 / answer.level)
    if answer.looks > planned:
        lines.append(
            f"Looked at {answer.looks} times, {planned} planned (report.looks): a verdict is wrong in up to "
            f"{100 * answer.level * answer.looks:.2g} %, not 5 %."
        )
    return lines
