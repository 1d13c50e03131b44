"""The answer: the best LR of each batch size, and how far the linear rule holds; from a table of runs."""

import math
from collections.abc import Sequence

import numpy as np

from pipeline.analysis.curve import GRID, fit_curve
from pipeline.analysis.results import Answer, BatchResult
from pipeline.analysis.table import Run
from pipeline.analysis.verdict import judge
from pipeline.errors import RequestError


def analyse(
    runs: Sequence[Run],
    *,
    margin: tuple[float, bool] = (0.05, True),
    base_batch: int | None = None,
    configured_base: int | None = None,
    objective: str = "value",
    budget: str = "",
) -> Answer:
    """Analyse a table of runs.

    Args:
        runs: of one workload; stalled ones already marked (`pipeline.analysis.table.mark_stalled`).
        margin: (number, whether it is a share of the best loss at the base batch).
        base_batch: where the rules start; it must be in the table.
        configured_base: used if `base_batch` is None and it is in the table; else the smallest batch is.
        objective, budget: named in the answer.

    Raises:
        RequestError: no runs, or no runs at `base_batch`.
    """
    sizes = sorted({run.batch for run in runs})
    if not sizes:
        raise RequestError("There are no runs to analyse.")
    base, reason = _choose_base(sizes, base_batch, configured_base)
    # Fixed: the same table always gives the same answer.
    rng = np.random.default_rng(0)
    cells = {size: _describe([run for run in runs if run.batch == size], rng) for size in sizes}
    absolute = _absolute_margin(margin, cells[base])
    judged = judge(cells, base, absolute)
    ordered = tuple(judged[size] for size in sizes)
    holds_from, holds_up_to, breaks_at = _range(ordered, base)
    return Answer(
        base_batch=base,
        base_reason=reason,
        margin=absolute,
        seed_sd=_seed_sd([run for run in runs if run.batch == base], cells[base]),
        batches=ordered,
        exponent=_exponent(ordered),
        holds_from=holds_from,
        holds_up_to=holds_up_to,
        breaks_at=breaks_at,
        objective=objective,
        budget=budget,
        seeds=len({run.seed for run in runs}),
    )


def _choose_base(sizes: Sequence[int], asked: int | None, configured: int | None) -> tuple[int, str]:
    if asked is not None:
        if asked not in sizes:
            raise RequestError(f"--base-batch={asked}: no runs at it.\nChoose one of: {', '.join(map(str, sizes))}.")
        return asked, "as asked for"
    if configured in sizes:
        assert configured is not None
        return configured, "scaling.base_batch"
    return sizes[0], "the smallest that was run"


def _describe(runs: Sequence[Run], rng: np.random.Generator) -> BatchResult:
    """Everything about one batch size that doesn't depend on the others."""
    failing = min((run.lr for run in runs if run.failed), default=math.inf)
    admissible = [run for run in runs if run.usable and run.lr < failing]
    curve = fit_curve(admissible, rng)
    steps = [run.steps for run in runs if run.steps is not None and run.usable]
    tests = [run for run in admissible if run.test_loss is not None]
    common = {
        "batch": runs[0].batch,
        "runs": len(runs),
        "failed": sum(run.failed for run in runs),
        "steps": max(steps, default=None),
        "stable_lr": max((run.lr for run in admissible), default=None),
        "failing_lr": failing if failing < math.inf else None,
        "curve": curve,
    }
    if curve is None:
        return BatchResult(**common)  # type: ignore[arg-type]
    argmins = curve.argmins()
    censored = curve.censored()
    best_value = float(np.exp(np.median(curve.draws.min(axis=1))))
    best, low, high = (float(2**q) for q in np.quantile(argmins, (0.5, 0.025, 0.975)))
    nearest = sorted(tests, key=lambda run: abs(math.log(run.lr / best)))[:5]
    return BatchResult(
        **common,  # type: ignore[arg-type]
        best_lr=None if censored else best,
        ci_low=None if censored else low,
        ci_high=None if censored else high,
        censored=censored,
        best_value=best_value,
        test_value=float(np.mean([run.test_loss for run in nearest])) if nearest else None,
    )


def _absolute_margin(margin: tuple[float, bool], base: BatchResult) -> float | None:
    value, is_share = margin
    if not is_share:
        return value
    return None if base.best_value is None else value * base.best_value


def _seed_sd(runs: Sequence[Run], cell: BatchResult) -> float | None:
    """Standard deviation of the objective within half an octave of the best LR."""
    if cell.best_lr is None:
        return None
    near = [run.value for run in runs if run.usable and abs(math.log2(run.lr / cell.best_lr)) <= 0.5]
    return float(np.std(near, ddof=1)) if len(near) > 1 else None


def _range(batches: Sequence[BatchResult], base: int) -> tuple[int | None, int | None, int | None]:
    def holds(cell: BatchResult) -> bool:
        return cell.rules is not None and cell.rules["linear"].verdict == "holds"

    index = next(i for i, cell in enumerate(batches) if cell.batch == base)
    if not holds(batches[index]):
        low = high = None
    else:
        first = last = index
        while first > 0 and holds(batches[first - 1]):
            first -= 1
        while last + 1 < len(batches) and holds(batches[last + 1]):
            last += 1
        low, high = batches[first].batch, batches[last].batch
    breaks = [c.batch for c in batches[index + 1 :] if c.rules and c.rules["linear"].verdict == "breaks"]
    return low, high, breaks[0] if breaks else None


def _exponent(batches: Sequence[BatchResult]) -> tuple[float, float, float] | None:
    """Slope of log best LR over log batch, weighted by precision; its interval from joint draws."""
    known = [cell for cell in batches if cell.best_lr is not None and cell.curve is not None]
    if len(known) < 3:
        return None
    x = np.log2([cell.batch for cell in known])
    draws = np.stack([cell.curve.argmins() for cell in known])  # type: ignore[union-attr]
    # The grid's own resolution keeps an optimum that never moved from taking all the weight.
    weights = 1 / (draws.var(axis=1) + GRID**2)
    centered = x - np.average(x, weights=weights)
    slopes = (weights * centered) @ draws / (weights * centered**2).sum()
    value, low, high = np.quantile(slopes, (0.5, 0.025, 0.975))
    return float(value), float(low), float(high)
