"""What an analysis returns: the answer, a result for each batch size, a verdict for each rule."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.analysis.curve import Curve

# A cell with fewer optimizer steps shows step starvation, not a property of the gradient's noise.
FEW_STEPS = 50


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
