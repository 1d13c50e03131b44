"""Advice in a table and in sentences."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.analysis.stats.advice import Advice, Evidence, Question, Refusal
from pipeline.analysis.stats.results import Estimate

VERDICTS = {
    "holds": "its loss is within the margin of the best",
    "breaks": "its loss is worse than the best by more than the margin, or its runs fail",
    "undecided": "these runs can't tell whether the difference is within the margin",
    "censored": "the best LR, or the rule's, lies outside of what was tried",
}


def print_advice(advice: Advice, source: str | None, console: Console | None = None) -> None:
    """Print the rules' table and what the runs of `source`, a sweep or a file, say; None for no runs."""
    if console is None:
        console = Console()
        # Without a terminal there is no width to follow; markup would swallow brackets in a name.
        console = Console(width=None if console.is_terminal else 100, highlight=False, markup=False)
    console.print(_table(advice))
    for line in sentences(advice, source):
        console.print(line)


def _table(advice: Advice) -> Table:
    question = advice.question
    title = f"From batch {question.from_batch}, LR {question.from_lr:g}, to batch {question.to_batch}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # Columns that would be empty are left out.
    shown = {
        "rule": True,
        "LR": True,
        "betas": question.betas is not None,
        "eps": question.eps is not None,
        "meant for": True,
        "": any(rule.reason for rule in advice.rules),
    }
    for column in (name for name, wanted in shown.items() if wanted):
        table.add_column(column, justify="right" if column == "LR" else "left", overflow="fold")
    for rule in advice.rules:
        cells = {
            "rule": f"{rule.rule} *" if rule.customary else rule.rule,
            "LR": "" if rule.lr is None else f"{rule.lr:.4g}",
            # 1 − β is what counts, and with β near 1 it needs the digits.
            "betas": " ".join(f"{beta:.6g}" for beta in rule.betas or ()),
            "eps": "" if rule.eps is None else f"{rule.eps:.3g}",
            "meant for": rule.meant_for,
            # From where to where, the title says already.
            "": rule.reason.partition(": ")[2] or rule.reason,
        }
        table.add_row(*(cells[name] for name, wanted in shown.items() if wanted))
    return table


def sentences(advice: Advice, source: str | None) -> list[str]:
    """Everything below the table, a line each; commands stand on lines of their own."""
    question, evidence = advice.question, advice.evidence
    if question.betas is None:
        lines = ["* customary for SGD; for Adam, give --betas, and --eps."]
    else:
        lines = ["* customary for Adam." + ("" if question.eps else " adam_sde changes its eps too: give --eps.")]
    if evidence is None:
        sizes = ",".join(map(str, sorted({question.from_batch, question.to_batch})))
        lines += ["By evidence: no runs given. Measure it, then add --sweep NAME:"]
        return [*lines, f"  python -m pipeline.train batch={sizes} -m"]
    lines.append(f"By evidence, {source}:")
    lines += _optimum(question, evidence)
    if evidence.linear is not None:
        lines.append(
            f"The linear rule, from the best LR at {evidence.base_batch} to {question.to_batch}: "
            f"{evidence.linear} ({VERDICTS[evidence.linear]})."
        )
    if evidence.band is not None and evidence.margin is not None:
        low, high = evidence.band
        lines.append(
            f"Of equal rank at {question.to_batch}: LRs of {low:.2g} … {high:.2g} "
            f"(loss within {evidence.margin:.2g} of the best, the margin)."
        )
    if evidence.failing_lr is not None:
        lines.append(f"Lowest LR at which a run failed at {question.to_batch}: {evidence.failing_lr:.2g}.")
    return lines


def _optimum(question: Question, evidence: Evidence) -> list[str]:
    """The best LR and the ratio, or what stands in their way."""
    end = question.to_batch
    lines = []
    if evidence.best_lr is None:
        lines += _refused(f"No LR for {end}", evidence.refusal)
    elif evidence.between is None:
        lines.append(f"Measured best at {end}: {_text(evidence.best_lr)}, with its 95 % interval.")
    else:
        lines.append(
            f"Best at {end}, interpolated between {_and(evidence.between)}: {_text(evidence.best_lr)}, "
            "with its 95 % interval, which allows for a bend between them."
        )
    if evidence.ratio is not None and evidence.scaled_lr is not None:
        kind = "measured" if evidence.between is None and evidence.ratio_between is None else "interpolated"
        lines.append(f"Your LR × {kind} ratio {_text(evidence.ratio)} = {_text(evidence.scaled_lr)}.")
        lines.append("The first LR is for those runs' own workload; the second takes only their ratio over to yours.")
    elif evidence.ratio_refusal is not None:
        lines += _refused(f"No ratio to {question.from_batch}", evidence.ratio_refusal)
    return lines


def _refused(what: str, refusal: Refusal | None) -> list[str]:
    assert refusal is not None
    return [f"{what}: {refusal.reason}.", "To get it, with the other overrides of those runs:", f"  {refusal.command}"]


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.2g} ({estimate.low:.2g} … {estimate.high:.2g})"


def _and(pair: tuple[int, int]) -> str:
    return f"{pair[0]} and {pair[1]}"
