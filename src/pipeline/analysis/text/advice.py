"""Print advice: the table of rules, and below it what the measured runs say."""

from pipeline.analysis.stats.advice import Advice, Evidence, Question, Refusal, RuleAdvice
from pipeline.analysis.stats.results import Estimate
from pipeline.analysis.text.render import new_table, open_console
from pipeline.analysis.text.wording import estimate_text

VERDICTS = {
    "holds": "its loss is within the margin of the best",
    "breaks": "its loss is worse than the best by more than the margin, or its runs fail",
    "undecided": "these runs can't tell whether the difference is within the margin",
    "censored": "the best LR, or the rule's, lies outside of what was tried",
}


def print_advice(advice: Advice, source: str | None) -> None:
    """Print the table of rules and the sentences; `source` is the sweep or file of the evidence."""
    question = advice.question
    table = new_table(f"From batch {question.from_batch}, LR {question.from_lr:g}, to batch {question.to_batch}")
    rows = [_row(rule) for rule in advice.rules]
    # Empty columns are left out.
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    for name in names:
        table.add_column(name, justify="right" if name == "LR" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in names))
    console = open_console(file_width=100)
    console.print(table)
    for line in sentences(advice, source):
        console.print(line)


def _row(rule: RuleAdvice) -> dict[str, str]:
    return {
        "rule": f"{rule.rule} *" if rule.customary else rule.rule,
        "LR": "" if rule.lr is None else f"{rule.lr:.4g}",
        # Six digits: what matters is 1 − β, and β is near 1.
        "betas": " ".join(f"{beta:.6g}" for beta in rule.betas or ()),
        "eps": "" if rule.eps is None else f"{rule.eps:.3g}",
        "meant for": rule.meant_for,
        # A reason starts with the two batch sizes, which the title has.
        "": rule.reason.partition(": ")[2] or rule.reason,
    }


def sentences(advice: Advice, source: str | None) -> list[str]:
    """Return what stands below the table, line by line; commands stand on lines of their own."""
    question, evidence = advice.question, advice.evidence
    if question.betas is None:
        lines = ["* customary for SGD; for Adam, give --betas, and --eps."]
    else:
        lines = ["* customary for Adam." + ("" if question.eps else " adam_sde changes its eps too: give --eps.")]
    if evidence is None:
        sizes = ",".join(map(str, sorted({question.from_batch, question.to_batch})))
        lines.append("By evidence: no runs given. Measure it, then add --sweep NAME:")
        return [*lines, f"  python -m pipeline.train batch={sizes} -m"]
    return [*lines, f"By evidence, {source}:", *_best_lr(question, evidence), *_neighbourhood(question, evidence)]


def _best_lr(question: Question, evidence: Evidence) -> list[str]:
    """Give the best LR and the ratio to the old one, or say why the runs support none."""
    batch = question.to_batch
    if evidence.best_lr is None:
        lines = _refusal(f"No LR for {batch}", evidence.refusal)
    elif evidence.between is None:
        lines = [f"Measured best at {batch}: {_estimate(evidence.best_lr)}, with its 95 % interval."]
    else:
        left, right = evidence.between
        lines = [
            f"Best at {batch}, interpolated between {left} and {right}: {_estimate(evidence.best_lr)}, "
            "with its 95 % interval, which allows for a bend between them."
        ]
    if evidence.ratio is not None and evidence.scaled_lr is not None:
        kind = "measured" if evidence.between is None and evidence.ratio_between is None else "interpolated"
        lines.append(f"Your LR × {kind} ratio {_estimate(evidence.ratio)} = {_estimate(evidence.scaled_lr)}.")
        lines.append("The first LR fits the workload of those runs. The second applies only their ratio to your LR.")
    elif evidence.ratio_refusal is not None:
        lines += _refusal(f"No ratio to {question.from_batch}", evidence.ratio_refusal)
    return lines


def _neighbourhood(question: Question, evidence: Evidence) -> list[str]:
    """Say how good linear's LR is, which LRs are as good as the best, and where runs fail."""
    batch = question.to_batch
    lines = []
    if evidence.linear is not None:
        lines.append(
            f"The linear rule, from the best LR at {evidence.base_batch} to {batch}: "
            f"{evidence.linear} ({VERDICTS[evidence.linear]})."
        )
    if evidence.band is not None and evidence.margin is not None:
        low, high = evidence.band
        lines.append(
            f"As good as the best at {batch}: LRs of {low:.2g} … {high:.2g} "
            f"(loss within {evidence.margin:.2g} of the best, the margin)."
        )
    if evidence.failing_lr is not None:
        lines.append(f"Lowest LR that fails at {batch}: {evidence.failing_lr:.2g}.")
    return lines


def _refusal(what: str, refusal: Refusal | None) -> list[str]:
    assert refusal is not None
    return [f"{what}: {refusal.reason}.", "To get it, with the other overrides of those runs:", f"  {refusal.command}"]


def _estimate(estimate: Estimate) -> str:
    return estimate_text(estimate, digits=".2g", label="")
