"""Four questions that courses answer by rule of thumb, answered from a sweep's own numbers."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from pipeline.analysis.stats.batch_fit import BatchFit
from pipeline.analysis.stats.results import MAX_EXPONENT_WIDTH, VERBS, Answer, AnsweredQuestion

CANNOT_TELL = "This sweep cannot tell."


def answer_questions(answer: Answer, fits: Sequence[BatchFit]) -> tuple[AnsweredQuestion, ...]:
    """Answer the four questions, each with its evidence, by an answer that lacks them and the fits behind it."""
    return (
        AnsweredQuestion("Does a larger batch need a larger learning rate?", *_needs_larger_lr(answer)),
        AnsweredQuestion("May the learning rate stay when the batch shrinks?", *_lr_may_stay(answer)),
        AnsweredQuestion("Does a too large learning rate break convergence?", *_large_lr_breaks(answer)),
        AnsweredQuestion("Do small batches generalise better?", *_small_generalises(fits)),
    )


def _needs_larger_lr(answer: Answer) -> tuple[str, str]:
    exponent = answer.exponent
    known = [cell for cell in answer.batches if cell.best_lr is not None]
    if answer.one_lr_each:
        return CANNOT_TELL, "Only one LR was tried at each batch size."
    if exponent is None or len(known) < 3:
        return CANNOT_TELL, f"{len(known)} batch size(s) have a best LR; a trend needs three."
    first, last = known[0], known[-1]
    evidence = (
        f"Best LR ∝ batch^{exponent.value:.2f} (95 %: {exponent.low:.2f} … {exponent.high:.2f}) over {first.batch} … "
        f"{last.batch}. At {first.batch} it is {first.best_lr:.3g}, at {last.batch} {last.best_lr:.3g}."
    )
    if exponent.high < 0:
        return "No: a smaller one.", evidence
    if exponent.low <= 0:
        return CANNOT_TELL, evidence
    if not exponent.low <= 1 <= exponent.high:
        return "Yes, but not in proportion.", evidence
    if exponent.high - exponent.low > MAX_EXPONENT_WIDTH:
        return "Yes; by how much can't be said.", evidence
    return "Yes, in proportion.", evidence


def _lr_may_stay(answer: Answer) -> tuple[str, str]:
    smaller = [cell for cell in answer.batches if cell.batch < answer.base_batch]
    if not smaller:
        return CANNOT_TELL, f"No batch size below the base, {answer.base_batch}, was run."
    found = {verdict: [cell.batch for cell in smaller if cell.rules["fixed"].verdict == verdict] for verdict in VERBS}
    parts = [f"{VERBS[verdict]} at {', '.join(map(str, sizes))}" for verdict, sizes in found.items() if sizes]
    evidence = f"The LR of batch {answer.base_batch}, kept: {'; '.join(parts)}."
    if diverging := [str(cell.batch) for cell in smaller if cell.rules["fixed"].reason == "diverges"]:
        evidence += f" At {', '.join(diverging)} runs fail at this LR."
    if found["breaks"]:
        nearest = found["breaks"][-1]
        held = [size for size in found["holds"] if size > nearest]
        return (f"Down to {held[0]}, not to {nearest}." if held else f"No, not down to {nearest}."), evidence
    if found["undecided"] or found["censored"]:
        return CANNOT_TELL, evidence
    return f"Yes, down to {smaller[0].batch}, within the margin.", evidence


def _large_lr_breaks(answer: Answer) -> tuple[str, str]:
    if not any(cell.failed for cell in answer.batches):
        return CANNOT_TELL, "No run diverged or fell back to a constant guess: the LRs don't reach that far."
    # Where no run finished at a smaller LR, the cause may be something other than the LR.
    failing = [cell for cell in answer.batches if cell.failing_lr is not None and cell.stable_lr is not None]
    if not failing:
        return CANNOT_TELL, "Runs failed, but at none of those batch sizes did one finish at a smaller learning rate."
    failed, runs = sum(cell.failed for cell in failing), sum(cell.runs for cell in answer.batches)
    evidence = f"{failed} of {runs} runs diverged or fell back to a constant guess, at {len(failing)} batch size(s)"
    if above := [math.log2(cell.failing_lr / cell.best_lr) for cell in failing if cell.failing_lr and cell.best_lr]:
        evidence += f"; the lowest such LR lies {min(above):.1f} to {max(above):.1f} octaves above the best one"
    return "Yes.", evidence + "."


def _small_generalises(fits: Sequence[BatchFit]) -> tuple[str, str]:
    """Compare the test losses near the best LR of the smallest and the largest batch size that have them."""
    known = [fit for fit in fits if len(_by_seed(fit, "test_loss")) >= 2]
    if len(known) < 2:
        return CANNOT_TELL, "Fewer than two batch sizes have test losses of two seeds near their best LR."
    small, large = known[0], known[-1]
    mean, low, high = _difference(_by_seed(small, "test_loss"), _by_seed(large, "test_loss"))
    interval = f"{mean:+.3g} (95 %: {low:+.3g} … {high:+.3g})"
    evidence = f"Test loss near the best LR, batch {large.result.batch} minus batch {small.result.batch}: {interval}."
    gaps = [_gap_by_seed(fit) for fit in (small, large)]
    if all(len(gap) >= 2 for gap in gaps):
        # A network that was trained less well also tests worse. Only a larger gap between test and training loss shows
        # that it generalises worse.
        gap, gap_low, gap_high = _difference(*gaps)
        evidence += f" Test minus training loss: {gap:+.3g} ({gap_low:+.3g} … {gap_high:+.3g})."
        if (low > 0 and gap_low <= 0) or (high < 0 and gap_high >= 0):
            return CANNOT_TELL, f"{evidence} The training losses differ as much, so this isn't generalisation alone."
    if low > 0:
        return f"Yes: {small.result.batch} better than {large.result.batch}.", evidence
    if high < 0:
        return f"No: {large.result.batch} better than {small.result.batch}.", evidence
    return CANNOT_TELL, evidence


def _gap_by_seed(fit: BatchFit) -> dict[int, float]:
    """Return test minus training loss near the best LR, for each seed that has both."""
    test, train = _by_seed(fit, "test_loss"), _by_seed(fit, "train_loss")
    return {seed: test[seed] - train[seed] for seed in test.keys() & train.keys()}


def _by_seed(fit: BatchFit, column: str) -> dict[int, float]:
    """Return the mean of a column over each seed's runs near the best LR."""
    values: dict[int, list[float]] = {}
    for run in fit.near_best():
        value = getattr(run, column)
        if value is not None and run.seed is not None and math.isfinite(value):
            values.setdefault(run.seed, []).append(value)
    return {seed: float(np.mean(found)) for seed, found in values.items()}


def _difference(small: dict[int, float], large: dict[int, float]) -> tuple[float, float, float]:
    """Return the mean of large minus small with a 95 % interval: of pairs if two seeds are shared, else by Welch's t.

    scipy's t tests are no substitute: they warn where all seeds differ by the same amount.
    """
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
