"""The answer in sentences, the most important first. The screen, Markdown and the HTML page show the same ones."""

from collections.abc import Sequence

from pipeline.analysis.stats.results import Answer, SensitivityCheck
from pipeline.analysis.text.evidence import caveats, evidence_sentences
from pipeline.analysis.text.laws import exponent_sentences, fit_sentences
from pipeline.analysis.text.verdicts import verdict_sentences
from pipeline.analysis.text.wording import list_batches_where


def summary(answer: Answer) -> list[str]:
    """Say everything; the first sentence is the headline."""
    return [
        headline(answer),
        *exponent_sentences(answer),
        *fit_sentences(answer.laws, answer.selected_law),
        *verdict_sentences(answer),
        *evidence_sentences(answer),
        *caveats(answer),
    ]


def headline(answer: Answer) -> str:
    """Say in one sentence how far the linear rule holds."""
    base = answer.base_batch
    others = [cell for cell in answer.batches if cell.batch != base]
    if not others:
        return f"One batch size says nothing about a rule: run others beside {base}."
    if answer.holds_up_to is None:
        return f"Can't say whether the linear rule holds: batch {base} has no best LR to start from."

    def at(verdict: str) -> str:
        return list_batches_where(others, lambda cell: cell.rules["linear"].verdict == verdict)

    verbs = {"holds": "holds", "breaks": "breaks", "undecided": "is undecided", "censored": "is censored"}
    parts = [f"{verb} at {sizes}" for verdict, verb in verbs.items() if (sizes := at(verdict))]
    budget = f" at equal {answer.budget.split()[-1]}" if answer.budget and answer.budget != "target" else ""
    end = ": it depends on the objective." if _contradict(answer.objectives) else "."
    return f"The linear rule{budget}, from batch {base}, {', '.join(parts)}{end}"


def _contradict(judged: Sequence[SensitivityCheck]) -> bool:
    """Whether two objectives contradict each other: `holds` against `breaks`, or exponents that exclude each other."""
    sizes = judged[0].verdicts if judged else ()
    if any({"holds", "breaks"} <= {item.verdicts.get(size) for item in judged} for size in sizes):
        return True
    exponents = [item.exponent for item in judged if item.exponent is not None]
    return any(a.high < b.low for a in exponents for b in exponents)
