"""What an analysis returns: the answer, the result of each batch size, and the verdict on each rule.

The *regret* of an LR is how much worse the objective is there than at the best. A rule *holds* if its LR's regret is at
most the margin, and *breaks* if it is larger; *undecided* is neither, *censored* is beyond the LRs that were tried.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.curve import Curve
from pipeline.recipe.scaling import RULES

# With fewer optimizer steps, a result says more about too few steps than about gradient noise.
FEW_STEPS = 50
# The objective's name where the budget is a target.
STEPS_TO_TARGET = "steps to target"
# An exponent with a wider 95 % interval supports no statement about a law.
MAX_EXPONENT_WIDTH = 0.4
# A stricter margin, with which the verdicts are repeated: a share of the best loss.
STRICTER_MARGIN = 0.05
# Each verdict in a sentence: `linear holds at 64`.
VERBS = {"holds": "holds", "breaks": "breaks", "undecided": "is undecided", "censored": "is censored"}
# The rules that get verdicts, the steepest first: from name to the exponent of batch / base batch.
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
    """One rule at one batch size, starting from the base batch's best LR.

    Attributes:
        lr: the rule's LR; NaN where the base batch has no best LR.
        loss, best_loss: the objective at that LR, and at the best one that it was compared with, by the same runs.
        regret, regret_low, regret_high: estimate with a 90 % interval; its ends are one-sided 95 % bounds.
        verdict: `holds`, `breaks`, `undecided` or `censored`.
        reason: why, where the numbers don't show it: `diverges`, `outside what was tried` …
        evidence: where the regret comes from: `confirmed`, fresh seeds at this LR and at others, compared in pairs;
            `interpolated`, the fitted curve; `published`, published means, compared by Welch's t test.
        seeds: the number of pairs.
    """

    lr: float
    loss: float | None = None
    best_loss: float | None = None
    regret: float | None = None
    regret_low: float | None = None
    regret_high: float | None = None
    verdict: str = "undecided"
    reason: str = ""
    evidence: str = ""
    seeds: int = 0


@dataclass(frozen=True)
class BatchResult:
    """What is known about one batch size.

    Attributes:
        batch: examples in one optimizer step.
        runs, failed: the number of runs, and of those that diverged or stalled.
        best_lr, ci_low, ci_high: posterior median of the best LR with its 95 % interval; None where unknown.
        censored: `low` or `high` where the best LR may lie beyond that end of the LRs that were tried.
        band_low, band_high: the LRs whose loss is within the margin of the best.
        best_value, test_value: the objective and the test loss at the best LR.
        steps: optimizer steps of its runs.
        failing_lr, stable_lr: the lowest LR that fails, and the highest usable one below it.
        rules: by name; see `JUDGED_RULES`.
        noise_scale: gradient noise scale tr Σ / |G|² near the best LR at the last measurement, in examples.
        seeds, lrs: the number of seeds of the search, 0 where they are unknown; and of LRs with a result.
        band_is_open: whether the band reaches an end of the fitted LRs, so that it may be wider.
        curve: the posterior that the best LR and the band come from.
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
    noise_scale: float | None = None
    seeds: int = 0
    lrs: int = 0
    band_is_open: bool = False
    curve: Curve | None = None

    @property
    def best_interval(self) -> Estimate | None:
        """The best LR with its 95 % interval, where both are known."""
        ends = (self.best_lr, self.ci_low, self.ci_high)
        return None if None in ends else Estimate(*ends)  # type: ignore[arg-type]

    @property
    def starved(self) -> bool:
        """Whether its runs had too few optimizer steps to say anything about gradient noise."""
        return self.steps is not None and self.steps < FEW_STEPS

    @property
    def also_hold(self) -> tuple[str, ...]:
        """Other rules that hold where linear holds: these runs can't tell them from linear."""
        if not self.rules or self.rules["linear"].verdict != "holds":
            return ()
        return tuple(name for name, rule in self.rules.items() if name != "linear" and rule.verdict == "holds")

    @property
    def band_octaves(self) -> float | None:
        """Width of the band in octaves (factors of two in LR)."""
        if self.band_low is None or self.band_high is None:
            return None
        return math.log2(self.band_high / self.band_low)


@dataclass(frozen=True)
class Law:
    """A formula for the best LR over the batch size, fitted to the best LRs.

    Attributes:
        rule: its name in `pipeline.analysis.stats.laws.LAWS`.
        parameters: by name: `lr_at_base`, and `exponent`, `noise_scale` or `break_batch`; the last two in examples.
        aic: Akaike's information criterion; smaller is better.
        weight: Akaike weight, the share of this law among all laws.
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
    """The verdicts by one objective.

    Attributes:
        name: the objective, as `val/error`.
        exponent, holds_from, holds_up_to, breaks_at: as in `Answer`.
        verdicts, others: linear's by batch size, and those of each other rule.
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
    """A question that courses answer by rule of thumb, answered from these runs."""

    question: str
    answer: str
    evidence: str


@dataclass(frozen=True)
class Answer:
    """How far the linear rule holds.

    Attributes:
        base_batch, base_reason: the batch size that the rules start from, and why this one.
        base_lr, base_lr_is_given: the LR that the rules start from; whether the user gave it, else the search found it.
        margin, margin_text, margin_source: the largest regret that counts as none, in the objective's unit; as it was
            given; and when it was fixed.
        seed_sd: standard deviation between seeds near the best LR of the base batch.
        batches: in order of batch size.
        exponent, exponent_to_break: α of best LR ∝ batch^α, over all batch sizes and below `breaks_at`; None where it
            can't be fitted.
        holds_from, holds_up_to: the range of batch sizes around the base in which linear holds at each one.
        breaks_at: the smallest batch size above the base at which linear breaks.
        laws, selected_law: fitted formulas, the best first; the name of the first if the data single it out.
        objectives: the verdicts by each objective, `objective` first.
        stricter: linear's verdicts by batch size with `STRICTER_MARGIN`; None where the margin is no larger share.
        objective, budget: what the runs were judged by, and what was equal at all batch sizes.
        seeds, raised, notes: the number of seeds of the search, the runs that raised, what `table_checks` found.
        looks, split_seed: as in `AnalysisSettings`.
    """

    base_batch: int
    base_reason: str
    base_lr: float | None
    margin: float | None
    seed_sd: float | None
    batches: tuple[BatchResult, ...]
    exponent: Estimate | None
    holds_from: int | None
    holds_up_to: int | None
    breaks_at: int | None
    base_lr_is_given: bool = False
    margin_text: str = "10%"
    margin_source: str = ""
    exponent_to_break: Estimate | None = None
    laws: tuple[Law, ...] = ()
    selected_law: str | None = None
    objectives: tuple[SensitivityCheck, ...] = ()
    stricter: Mapping[int, str] | None = None
    questions: tuple[AnsweredQuestion, ...] = ()
    objective: str = "value"
    budget: str = ""
    seeds: int = 0
    raised: tuple[Run, ...] = ()
    notes: tuple[str, ...] = ()
    looks: tuple[int, ...] = ()
    split_seed: str = ""

    @property
    def base(self) -> BatchResult:
        """The result of the base batch."""
        return next(cell for cell in self.batches if cell.batch == self.base_batch)

    @property
    def one_lr_each(self) -> bool:
        """Whether only one LR was tried at each batch size, so that nothing can be compared."""
        return len(self.batches) > 1 and all(cell.lrs == 1 for cell in self.batches)

    @property
    def others(self) -> tuple[BatchResult, ...]:
        """The results of the other batch sizes."""
        return tuple(cell for cell in self.batches if cell.batch != self.base_batch)
