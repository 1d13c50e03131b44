"""The answer: the best LR of each batch size, and how far the linear rule holds; from a table of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.analysis.curve import Curve, fit_curve
from pipeline.analysis.table import Run
from pipeline.errors import RequestError

# A cell with fewer optimizer steps shows step starvation, not a property of the gradient's noise.
FEW_STEPS = 50
# One-sided level of a verdict; `breaks` shares it out over the batches (Holm 1979).
LEVEL = 0.05
RULES = {"linear": 1.0, "sqrt": 0.5, "fixed": 0.0}


@dataclass(frozen=True)
class RuleResult:
    """What a rule gives at one batch size, from the base batch's own best LR.

    Attributes:
        lr: the rule's LR.
        loss: the objective there.
        regret, regret_low, regret_high: how much worse than the best; median and 90 % interval.
        verdict: `holds`, `breaks`, `undecided` or `censored`.
        reason: why, where it isn't the interval: `diverges`, `outside what was tried` …
    """

    lr: float
    loss: float | None = None
    regret: float | None = None
    regret_low: float | None = None
    regret_high: float | None = None
    verdict: str = "undecided"
    reason: str = ""


@dataclass(frozen=True)
class BatchResult:
    """What is known about one batch size.

    Attributes:
        batch: examples in one optimizer step.
        runs, failed: how many runs there are, and how many of them diverged or stalled.
        best_lr: posterior median of the best LR, with a 95 % interval; None where the data can't tell.
        censored: `low` or `high` where the minimum may lie beyond what was tried.
        band_low, band_high: the LRs whose loss is within the margin of the best: of equal rank with it.
        best_value: the objective at the best LR.
        steps: optimizer steps of its runs; `starved` below `FEW_STEPS`.
        stable_lr, failing_lr: the largest LR below the lowest at which any seed failed, and that LR.
        rules: by name, see `RULES`.
        curve: the posterior it rests on.
    """

    batch: int
    runs: int
    failed: int
    best_lr: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    censored: str | None = None
    band_low: float | None = None
    band_high: float | None = None
    best_value: float | None = None
    test_value: float | None = None
    steps: int | None = None
    stable_lr: float | None = None
    failing_lr: float | None = None
    rules: Mapping[str, RuleResult] | None = None
    curve: Curve | None = None

    @property
    def starved(self) -> bool:
        """Whether it took too few steps to say anything about gradient noise."""
        return self.steps is not None and self.steps < FEW_STEPS


@dataclass(frozen=True)
class Answer:
    """How far the linear rule holds.

    Attributes:
        base_batch: the batch size that the rules start from, and `base_reason`, why this one.
        margin: the loss that counts as no difference, absolute.
        seed_sd: standard deviation between seeds near the best LR of the base batch: resolution, not margin.
        batches: in order of batch size.
        exponent: (value, low, high) of best LR ∝ batch^exponent, 95 %; None where it can't be fitted.
        holds_from, holds_up_to: the contiguous range around the base in which linear holds.
        breaks_at: the smallest batch size above the base at which linear breaks.
        objective, budget: what the runs were judged by, and what was kept equal.
    """

    base_batch: int
    base_reason: str
    margin: float | None
    seed_sd: float | None
    batches: tuple[BatchResult, ...]
    exponent: tuple[float, float, float] | None
    holds_from: int | None
    holds_up_to: int | None
    breaks_at: int | None
    objective: str = "value"
    budget: str = ""
    seeds: int = 0


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
    judged = _judge(cells, base, absolute)
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


def _judge(cells: Mapping[int, BatchResult], base: int, margin: float | None) -> dict[int, BatchResult]:
    """Add to each cell its band, and each rule's verdict with the anchor and the cell drawn together."""
    results = {}
    anchor = cells[base].curve
    usable_anchor = anchor if cells[base].best_lr is not None else None
    regrets = {
        rule: {size: _Regret.of(cell, usable_anchor, base, exponent) for size, cell in cells.items()}
        for rule, exponent in RULES.items()
    }
    breaking = {rule: _holm(_chances(regrets[rule], base, margin)) for rule in RULES}
    for size, cell in cells.items():
        rules = {rule: regrets[rule][size].result(margin, size in breaking[rule]) for rule in RULES}
        low, high = _band(cell, margin)
        results[size] = replace(cell, rules=rules, band_low=low, band_high=high)
    return results


@dataclass(frozen=True)
class _Regret:
    """A rule at one batch size: its LR in each draw, and by how much that misses the best."""

    cell: BatchResult
    lr: float | None
    regrets: np.ndarray | None
    loss: float | None = None
    clipped: bool = False

    @classmethod
    def of(cls, cell: BatchResult, anchor: Curve | None, base: int, exponent: float) -> "_Regret":
        if anchor is None:
            return cls(cell, None, None)
        octaves = anchor.argmins() + exponent * math.log2(cell.batch / base)
        lr = float(2 ** np.median(octaves))
        curve = cell.curve
        if curve is None:
            return cls(cell, lr, None)
        best = curve.draws.min(axis=1)
        regrets = np.exp(curve.at(octaves)) - np.exp(best)
        if cell.failing_lr is not None:
            regrets = np.where(octaves >= math.log2(cell.failing_lr), np.inf, regrets)
        loss = float(np.exp(np.median(curve.at(np.full(len(best), math.log2(lr))))))
        clipped = not curve.octaves[0] <= math.log2(lr) <= curve.octaves[-1]
        return cls(cell, lr, regrets, loss, clipped)

    def result(self, margin: float | None, breaks: bool) -> RuleResult:
        """The verdict; `breaks` says whether Holm's procedure rejected that the rule holds here."""
        if self.lr is None:
            return RuleResult(math.nan, verdict="censored", reason="the base batch has no best LR")
        if self.cell.failing_lr is not None and self.lr >= self.cell.failing_lr:
            return RuleResult(self.lr, verdict="breaks", reason="diverges")
        if self.regrets is None or margin is None:
            return RuleResult(self.lr, verdict="undecided", reason="too few runs")
        # A draw that fails counts as infinitely worse; between finite and infinite nothing is interpolated.
        low, median, high = (
            float(q) for q in np.quantile(self.regrets, (LEVEL, 0.5, 1 - LEVEL), method="inverted_cdf")
        )
        numbers: dict[str, Any] = {"loss": self.loss, "regret": median, "regret_low": low, "regret_high": high}
        if breaks:
            # Beyond the fitted window the curve only gets worse: what is known there is a lower bound.
            return RuleResult(self.lr, **numbers, verdict="breaks", reason="at least" if self.clipped else "")
        if self.clipped:
            return RuleResult(self.lr, verdict="censored", reason="outside what was tried")
        if self.cell.censored:
            return RuleResult(self.lr, **numbers, verdict="censored", reason="the best may lie beyond what was tried")
        if np.mean(self.regrets <= margin) >= 1 - LEVEL:
            return RuleResult(self.lr, **numbers, verdict="holds")
        return RuleResult(self.lr, **numbers, verdict="undecided")


def _chances(regrets: Mapping[int, _Regret], base: int, margin: float | None) -> dict[int, float]:
    """One-sided p-value of `breaks` at each batch but the base: the posterior share of regrets in the margin."""
    return {
        size: float(np.mean(regret.regrets <= margin))
        for size, regret in regrets.items()
        if size != base and regret.regrets is not None and margin is not None
    }


def _holm(chances: Mapping[int, float]) -> set[int]:
    """The batch sizes at which a rule breaks, so that all verdicts together err in at most `LEVEL`.

    Holm 1979: in rising order of p-value, the k-th of m is tested at LEVEL / (m − k + 1), and none after the
    first that isn't rejected.
    """
    breaking: set[int] = set()
    for rank, (chance, size) in enumerate(sorted((chance, size) for size, chance in chances.items())):
        if chance > LEVEL / (len(chances) - rank):
            break
        breaking.add(size)
    return breaking


def _band(cell: BatchResult, margin: float | None) -> tuple[float | None, float | None]:
    """The LRs at which the median curve lies within the margin of its minimum."""
    if cell.curve is None or margin is None or cell.censored:
        return None, None
    curve = np.exp(np.median(cell.curve.draws, axis=0))
    inside = np.flatnonzero(curve <= curve.min() + margin)
    return float(2 ** cell.curve.octaves[inside[0]]), float(2 ** cell.curve.octaves[inside[-1]])


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
    weights = 1 / (draws.var(axis=1) + (1 / 16) ** 2)
    centered = x - np.average(x, weights=weights)
    slopes = (weights * centered) @ draws / (weights * centered**2).sum()
    value, low, high = np.quantile(slopes, (0.5, 0.025, 0.975))
    return float(value), float(low), float(high)
