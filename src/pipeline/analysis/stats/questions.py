"""Four questions that every course on this subject answers by rule of thumb, answered from a sweep's own numbers."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from pipeline.analysis.stats.batch_fit import BatchFit
from pipeline.analysis.stats.results import MAX_EXPONENT_WIDTH, Answer, AnsweredQuestion, BatchResult

CANNOT_TELL = "This sweep cannot tell."


def answer_questions(answer: Answer, cells: Sequence[BatchFit]) -> tuple[AnsweredQuestion, ...]:
    """The four questions with their answers and evidence.

    Args:
        answer: everything but the questions.
        cells: with the runs, in order of batch size.
    """
    return (
        AnsweredQuestion("Does a larger batch need a larger learning rate?", *_larger(answer)),
        AnsweredQuestion("May the learning rate stay when the batch shrinks?", *_stays(answer)),
        AnsweredQuestion("Does a too large learning rate break convergence?", *_too_large(answer)),
        AnsweredQuestion("Do small batches generalise better?", *_generalise(cells)),
    )


def _larger(answer: Answer) -> tuple[str, str]:
    slope = answer.exponent
    known = [cell for cell in answer.batches if cell.best_lr is not None]
    if slope is None or len(known) < 3:
        return CANNOT_TELL, f"{len(known)} batch size(s) have a best LR; a trend needs three."
    evidence = f"Best LR ∝ batch^{slope.value:.2f} (95 %: {slope.low:.2f} … {slope.high:.2f}) over {_span(known)}."
    first, last = known[0], known[-1]
    evidence += f" At {first.batch} it is {first.best_lr:.3g}, at {last.batch} {last.best_lr:.3g}."
    if slope.low > 0:
        if not slope.low <= 1 <= slope.high:
            return "Yes, but not in proportion.", evidence
        narrow = slope.high - slope.low <= MAX_EXPONENT_WIDTH
        return ("Yes, in proportion." if narrow else "Yes; by how much can't be said."), evidence
    if slope.high < 0:
        return "No: a smaller one.", evidence
    return CANNOT_TELL, evidence


def _span(cells: Sequence[BatchResult]) -> str:
    return f"{cells[0].batch} … {cells[-1].batch}"


def _stays(answer: Answer) -> tuple[str, str]:
    smaller = [cell for cell in answer.batches if cell.batch < answer.base_batch]
    if not smaller:
        return CANNOT_TELL, f"No batch size below the base, {answer.base_batch}, was run."
    found = {verdict: _batches(smaller, verdict) for verdict in ("holds", "breaks", "undecided", "censored")}
    evidence = "; ".join(
        f"{'is ' * (verdict not in ('holds', 'breaks'))}{verdict} at {sizes}"
        for verdict, sizes in found.items()
        if sizes
    )
    diverges = [cell for cell in smaller if cell.rules["fixed"].reason == "diverges"]
    evidence = f"The LR of batch {answer.base_batch}, kept: {evidence}."
    if diverges:
        evidence += f" At {_names(diverges)} it is one at which runs fail."
    if found["breaks"]:
        nearest = max(cell.batch for cell in smaller if cell.rules["fixed"].verdict == "breaks")
        held = [cell for cell in smaller if cell.rules["fixed"].verdict == "holds" and cell.batch > nearest]
        return (f"Down to {held[0].batch}, not to {nearest}." if held else f"No, not down to {nearest}."), evidence
    if found["holds"] and not found["undecided"] and not found["censored"]:
        return f"Yes, down to {smaller[0].batch}, within the margin.", evidence
    return CANNOT_TELL, evidence


def _batches(cells: Sequence[BatchResult], verdict: str) -> str:
    return _names([cell for cell in cells if cell.rules["fixed"].verdict == verdict])


def _names(cells: Sequence[BatchResult]) -> str:
    return ", ".join(str(cell.batch) for cell in cells)


def _too_large(answer: Answer) -> tuple[str, str]:
    if not any(cell.failed for cell in answer.batches):
        return CANNOT_TELL, "No run failed: the LRs that were tried don't reach that far."
    # Where nothing finished, what breaks it may be something else than the LR.
    failing = [cell for cell in answer.batches if cell.failing_lr is not None and cell.stable_lr is not None]
    if not failing:
        return CANNOT_TELL, "Runs failed, but at none of those batch sizes did one finish at a smaller learning rate."
    above = [
        math.log2(cell.failing_lr / cell.best_lr) for cell in failing if cell.failing_lr is not None and cell.best_lr
    ]
    failed, runs = sum(cell.failed for cell in failing), sum(cell.runs for cell in answer.batches)
    evidence = f"{failed} of {runs} runs diverged or fell back to a constant guess, at {len(failing)} batch size(s)"
    if above:
        evidence += f"; the lowest such LR lies {min(above):.1f} to {max(above):.1f} octaves above the best one"
    return "Yes.", evidence + "."


def _generalise(cells: Sequence[BatchFit]) -> tuple[str, str]:
    """Test loss at the best LRs of the smallest and the largest batch that have one, by seed."""
    tests = {cell.batch: by_seed for cell in cells if len(by_seed := _by_seed(cell, "test_loss")) >= 2}
    if len(tests) < 2:
        return CANNOT_TELL, "Fewer than two batch sizes have test losses of two seeds near their best LR."
    small, large = min(tests), max(tests)
    difference, low, high = _difference(tests[small], tests[large])
    interval = f"{difference:+.3g} (95 %: {low:+.3g} … {high:+.3g})"
    evidence = f"Test loss near the best LR, batch {large} minus batch {small}: {interval}."
    by_size = {cell.batch: cell for cell in cells}
    gaps = [_gap_by_seed(by_size[size]) for size in (small, large)]
    if all(len(gap) >= 2 for gap in gaps):
        # A network that was trained less tests worse, too: what generalises is what tests better than it trained.
        gap, gap_low, gap_high = _difference(*gaps)
        evidence += f" Test minus training loss: {gap:+.3g} ({gap_low:+.3g} … {gap_high:+.3g})."
        if (low > 0 and gap_low <= 0) or (high < 0 and gap_high >= 0):
            return (
                CANNOT_TELL,
                evidence + " Training went as far apart, so this isn't generalisation alone.",
            )
    if low > 0:
        return f"Yes: {small} better than {large}.", evidence
    if high < 0:
        return f"No: {large} better than {small}.", evidence
    return CANNOT_TELL, evidence


def _gap_by_seed(cell: BatchFit) -> dict[int, float]:
    """Test minus training loss near the best LR, for each seed that has both."""
    test, train = _by_seed(cell, "test_loss"), _by_seed(cell, "train_loss")
    return {seed: test[seed] - train[seed] for seed in test.keys() & train.keys()}


def _by_seed(cell: BatchFit, column: str) -> dict[int, float]:
    """Mean of a column over each seed's runs within half an octave of the best LR."""
    values: dict[int, list[float]] = {}
    for run in cell.near_best():
        value = getattr(run, column)
        if value is not None and run.seed is not None and math.isfinite(value):
            values.setdefault(run.seed, []).append(value)
    return {seed: float(np.mean(found)) for seed, found in values.items()}


def _difference(small: dict[int, float], large: dict[int, float]) -> tuple[float, float, float]:
    """Mean of large minus small with a 95 % interval: in pairs where seeds are shared, else Welch's."""
    shared = sorted(small.keys() & large.keys())
    if len(shared) >= 2:
        differences = np.array([large[seed] - small[seed] for seed in shared])
        mean, error, freedom = differences.mean(), differences.std(ddof=1) / math.sqrt(len(shared)), len(shared) - 1.0
    else:
        a, b = np.array(list(large.values())), np.array(list(small.values()))
        parts = [a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)]
        mean, error = a.mean() - b.mean(), math.sqrt(sum(parts))
        total = parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1)
        freedom = sum(parts) ** 2 / total if total > 0 else 1.0
    half = float(stats.t.ppf(0.975, freedom)) * error
    return float(mean), float(mean - half), float(mean + half)
