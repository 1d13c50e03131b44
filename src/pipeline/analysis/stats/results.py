"""What an analysis returns: the answer, a result for each batch size, a verdict for each rule."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.analysis.stats.curve import Curve
from pipeline.recipe.scaling import RULES

# A cell with fewer optimizer steps shows step starvation, not a property of the gradient's noise.
FEW_STEPS = 50
# The objective's name where the budget is a target.
STEPS_TO_TARGET = "steps to target"
# An exponent whose 95 % interval is wider says nothing of a law.
MAX_EXPONENT_WIDTH = 0.4
# The most batch sizes for which verdicts are repeated from every other base: their number is squared.
MAX_OTHER_BASES = 20
# What alone keeps a verdict open: that several batch sizes are judged at once (Holm), or that the base batch's best LR
# is not known well enough.
BREAKS_WITHOUT_HOLM = "breaks if no other batch size is judged"
BREAKS_IF_BASE_KNOWN, HOLDS_IF_BASE_KNOWN = (
    "breaks if the base's best LR is as found",
    "holds if the base's best LR is as found",
)
# The rules on which verdicts are given: their exponents of batch / base batch by name, the steepest rule first.
JUDGED_RULES = {
    name: rule.judged_exponent
    for name, rule in sorted(RULES.items(), key=lambda item: item[1].judged_exponent or 0.0, reverse=True)
    if rule.judged_exponent is not None
}


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; an end is infinite where the data set no bound."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RuleResult:
    """What a rule gives at one batch size, from the base batch's own best LR.

    Attributes:
        lr: the rule's LR.
        loss: the objective at that LR.
        regret, regret_low, regret_high: how much worse it is than at the best LR, with a 90 % interval (its ends
            are the two one-sided 95 % bounds).
        verdict: `holds`, `breaks`, `undecided` or `censored`.
        reason: why, where the numbers don't say it: `diverges`, `outside what was tried` …
        evidence: `confirmed`: fresh seeds at this LR and at the best, compared in pairs; `interpolated`: read off
            the fitted curve; `published`: means of a table, by Welch's t; empty where there is no regret.
        seeds: how many pairs there are.
        more_seeds: how many further seeds would decide at this noise; None where it is decided, or they can't.
    """

    lr: float
    loss: float | None = None
    regret: float | None = None
    regret_low: float | None = None
    regret_high: float | None = None
    verdict: str = "undecided"
    reason: str = ""
    evidence: str = ""
    seeds: int = 0
    more_seeds: int | None = None


@dataclass(frozen=True)
class BatchResult:
    """What is known about one batch size.

    Attributes:
        batch: examples in one optimizer step.
        runs, failed: how many runs there are, and how many of them diverged or stalled.
        best_lr: posterior median of the best LR, with a 95 % interval; None where the data can't tell.
        censored: `low` or `high` where the minimum may lie beyond what was tried.
        band_low, band_high: the LRs whose loss is within the margin of the best: of equal rank with it.
        best_value, test_value: the objective and the test loss at the best LR.
        steps: optimizer steps of its runs; `starved` below `FEW_STEPS`.
        stable_lr, failing_lr: the largest LR below the lowest at which any seed failed, and that LR.
        rules: by name, see `JUDGED_RULES`.
        detectable: octaves by which an LR must be wrong for this design to say `breaks` in 80 % of cases.
        noise_scale: tr Σ / |G|² of the runs near the best LR, as last measured, in examples; None where it was not.
        seeds: how many the search had, where they are known.
        band_is_open: whether the band reaches an end of what was fitted, and may go on beyond it.
        curve: the posterior that best LR and band rest on.
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
    rules: Mapping[str, RuleResult] = field(default_factory=dict)
    detectable: float | None = None
    noise_scale: float | None = None
    seeds: int = 0
    band_is_open: bool = False
    curve: Curve | None = None

    @property
    def best_interval(self) -> Estimate | None:
        """The best LR with its 95 % interval, where both are known."""
        if self.best_lr is None or self.ci_low is None or self.ci_high is None:
            return None
        return Estimate(self.best_lr, self.ci_low, self.ci_high)

    @property
    def starved(self) -> bool:
        """Whether it took too few steps to say anything about gradient noise."""
        return self.steps is not None and self.steps < FEW_STEPS

    @property
    def also_hold(self) -> tuple[str, ...]:
        """Other rules that hold where linear does: there, that it holds is no evidence for it."""
        if not self.rules or self.rules["linear"].verdict != "holds":
            return ()
        return tuple(name for name, rule in self.rules.items() if name != "linear" and rule.verdict == "holds")

    @property
    def band_octaves(self) -> float | None:
        """How many octaves of LR the margin tolerates."""
        if self.band_low is None or self.band_high is None:
            return None
        return math.log2(self.band_high / self.band_low)


@dataclass(frozen=True)
class Law:
    """A formula for the best LR over the batch size, fitted to the best LRs.

    Attributes:
        rule: `fixed linear sqrt power saturating broken_line surge`.
        parameters: by name: `lr_at_base`; and `exponent`, `noise_scale` (examples) or `break_batch`.
        aic: Akaike's criterion; smaller is better.
        weight: its share of the Akaike weights of all laws.
        fit_p_value: p-value of the chi-square test of the residuals, if the law is true.
        lrs: the law's LR at each batch size of the answer.
        note: `not identifiable` where a parameter's interval is too wide to be given.
    """

    rule: str
    parameters: Mapping[str, Estimate]
    aic: float
    weight: float
    fit_p_value: float
    lrs: tuple[float, ...]
    note: str = ""


@dataclass(frozen=True)
class SensitivityCheck:
    """How far the rules hold by another objective, or from another batch size.

    Attributes:
        name: `val/error`, or `from batch 64`.
        exponent: of the best LR; None where it can't be fitted, or isn't another one.
        verdicts: linear's, by batch size; `others`, those of the other rules.
        holds_from, holds_up_to, breaks_at: linear's, as in `Answer`.
    """

    name: str
    exponent: Estimate | None
    verdicts: Mapping[int, str]
    holds_from: int | None
    holds_up_to: int | None
    breaks_at: int | None
    others: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question that courses answer by rule of thumb, answered from this sweep's own numbers."""

    question: str
    answer: str
    evidence: str


@dataclass(frozen=True)
class Answer:
    """How far the linear rule holds.

    Attributes:
        base_batch: the batch size that the rules start from, and `base_reason`, why this one.
        margin: the loss that counts as no difference, absolute; `margin_text` as it was given, `margin_source` when.
        seed_sd: standard deviation between seeds near the best LR of the base batch: resolution, not margin.
        batches: in order of batch size.
        exponent, exponent_to_break: of best LR ∝ batch^exponent, over all and below the first batch at which
            linear breaks; None where it can't be fitted.
        holds_from, holds_up_to: the contiguous range around the base in which linear holds.
        breaks_at: the smallest batch size above the base at which linear breaks.
        laws: fitted formulas, the best first; `selected_law` is the first one's name where its weight is 0.9 or more.
        other_bases: linear's verdicts with each other batch size as the base.
        objectives: the same question by each objective that the table has, the one in `objective` first.
        questions: with answers.
        objective, budget: what the runs were judged by, and what was kept equal.
        seeds: of the search.
        looks, level: how often this sweep was judged, and the one-sided level of each verdict.
    """

    base_batch: int
    base_reason: str
    margin: float | None
    seed_sd: float | None
    batches: tuple[BatchResult, ...]
    exponent: Estimate | None
    holds_from: int | None
    holds_up_to: int | None
    breaks_at: int | None
    margin_text: str = "5%"
    margin_source: str = ""
    exponent_to_break: Estimate | None = None
    laws: tuple[Law, ...] = ()
    selected_law: str | None = None
    other_bases: tuple[SensitivityCheck, ...] = ()
    objectives: tuple[SensitivityCheck, ...] = ()
    questions: tuple[AnsweredQuestion, ...] = ()
    objective: str = "value"
    budget: str = ""
    seeds: int = 0
    looks: int = 1
    level: float = 0.05
