"""What LR to use at a new batch size: by each rule, and by the evidence of runs that were measured."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.analysis.stats.results import Answer, BatchResult, Estimate
from pipeline.errors import RequestError
from pipeline.recipe.scaling import RULES, Scaling, scale_betas, scale_eps, scale_lr

# In the order of the table: the rules that need nothing come first.
MEANT_FOR = {
    "fixed": "any: the control",
    "linear": "SGD, below the noise scale",
    "sqrt": "Adam-like",
    "power": "any, with a fitted exponent",
    "saturating": "SGD, all batch sizes",
    "adam_sde": "Adam, while κ(1−β) < 1",
    "surge": "Adam-like",
}
CUSTOMARY = {"sgd": ("linear",), "adam": ("sqrt", "adam_sde")}


@dataclass(frozen=True)
class Question:
    """From a batch size (in examples) with a tuned LR to another; the rest is None where it isn't known.

    Attributes:
        betas, eps: Adam's, at `from_batch`; with betas the optimizer counts as Adam.
        exponent: of the rule power.
        noise_scale: of the rules saturating and surge, in examples.
    """

    from_batch: int
    from_lr: float
    to_batch: int
    betas: tuple[float, ...] | None = None
    eps: float | None = None
    exponent: float | None = None
    noise_scale: float | None = None


@dataclass(frozen=True)
class RuleAdvice:
    """What a rule gives; `lr` is None where it gives nothing, and `reason` says why."""

    rule: str
    meant_for: str
    customary: bool
    lr: float | None = None
    betas: tuple[float, ...] | None = None
    eps: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why the runs support no number, and the command whose runs would."""

    reason: str
    command: str


@dataclass(frozen=True)
class Evidence:
    """What measured runs say.

    Attributes:
        measured: the batch sizes that were run.
        best_lr: the best LR at the new batch; where it is None, `refusal` says why.
        between: the measured neighbours that `best_lr` is interpolated from; None where it is the batch's own.
        ratio: best LR at the new batch over that at the old; where only it is missing, see `ratio_refusal`.
        ratio_between: as `between`, for the old batch.
        scaled_lr: the LR that was asked about, times `ratio`.
        base_batch: where the linear rule starts, from that batch's own best LR.
        linear: its verdict at the new batch: `holds`, `breaks`, `undecided` or `censored`; None if not measured.
        band: the LRs whose loss at the new batch is within `margin` of the best.
        failing_lr: the lowest LR at which a run failed at the new batch.
    """

    measured: tuple[int, ...]
    best_lr: Estimate | None
    between: tuple[int, int] | None
    refusal: Refusal | None
    ratio: Estimate | None
    ratio_between: tuple[int, int] | None
    ratio_refusal: Refusal | None
    scaled_lr: Estimate | None
    base_batch: int
    linear: str | None
    margin: float | None
    band: tuple[float, float] | None
    failing_lr: float | None


@dataclass(frozen=True)
class Advice:
    """The whole of it; `evidence` is None where no runs were given."""

    question: Question
    rules: tuple[RuleAdvice, ...]
    evidence: Evidence | None


def advise(question: Question, answer: Answer | None = None) -> Advice:
    """Answer `question` by each rule, and by the evidence of `answer` where there is one."""
    rules = tuple(apply_rule(rule, question) for rule in MEANT_FOR)
    return Advice(question, rules, None if answer is None else weigh_evidence(question, answer))


def apply_rule(rule: str, question: Question) -> RuleAdvice:
    """The LR, and Adam's betas and eps, that `rule` gives; or the reason why it gives none."""
    common = (rule, MEANT_FOR[rule], rule in CUSTOMARY["adam" if question.betas else "sgd"])
    needed = ("betas",) if rule == "adam_sde" else RULES[rule].parameters
    if missing := [name for name in needed if getattr(question, name) is None]:
        return RuleAdvice(*common, reason=f"needs --{missing[0].replace('_', '-')}")
    parameters = {name: getattr(question, name) for name in RULES[rule].parameters}
    scaling = Scaling(rule=rule, base_batch=question.from_batch, **parameters)
    end = question.to_batch
    try:
        lr = scale_lr(scaling, question.from_lr, end)
        betas = None if question.betas is None else scale_betas(scaling, question.betas, end)
        eps = None if question.eps is None else scale_eps(scaling, question.eps, end)
    except RequestError as error:
        return RuleAdvice(*common, reason=" ".join(str(error).splitlines()))
    except OverflowError:
        lr = math.inf
    if not 0 < lr < math.inf:
        return RuleAdvice(*common, reason="no number that a computer can hold")
    return RuleAdvice(*common, lr, betas, eps)


def weigh_evidence(question: Question, answer: Answer) -> Evidence:
    """What the runs behind `answer` say about `question`: never a number beyond what they support."""
    end, start = _find(answer.batches, question.to_batch), _find(answer.batches, question.from_batch)
    ratio = None
    if end.octaves is not None and start.octaves is not None:
        # A bend lifts the old batch's best LR as well, and that lowers the ratio.
        ratio = _estimate(end.octaves - start.octaves, higher=end.bend, lower=start.bend)
    there = next((cell for cell in answer.batches if cell.batch == question.to_batch), None)
    # At the base batch every rule holds by construction: no verdict.
    judged = there if there is not None and there.batch != answer.base_batch else None
    band = None
    if there is not None and there.band_low is not None and there.band_high is not None:
        band = (there.band_low, there.band_high)
    return Evidence(
        measured=tuple(cell.batch for cell in answer.batches),
        best_lr=end.estimate,
        between=end.between,
        refusal=end.refusal,
        ratio=ratio,
        ratio_between=start.between,
        ratio_refusal=start.refusal,
        scaled_lr=None if ratio is None else _times(question.from_lr, ratio),
        base_batch=answer.base_batch,
        linear=judged.rules["linear"].verdict if judged is not None and judged.rules else None,
        margin=answer.margin,
        band=band,
        failing_lr=None if there is None else there.failing_lr,
    )


@dataclass(frozen=True)
class _Optimum:
    """The best LR at one batch size: `octaves`, [D] draws of its log2, and their summary; or a refusal.

    By up to `bend` octaves it may lie above the draws, if they are interpolated.
    """

    octaves: np.ndarray | None = None
    bend: float = 0.0
    estimate: Estimate | None = None
    between: tuple[int, int] | None = None
    refusal: Refusal | None = None


def _find(cells: Sequence[BatchResult], batch: int) -> _Optimum:
    """The best LR at `batch`: its own where it was measured, else on a line between its two neighbours.

    The line is straight in log2 LR over log2 batch, as a power law is; the interval allows for a law that bends.
    """
    below = [cell for cell in cells if cell.batch <= batch]
    above = [cell for cell in cells if cell.batch >= batch]
    train = f"python -m pipeline.train batch={batch}"
    if not below or not above:
        span = f"{cells[0].batch} … {cells[-1].batch}"
        return _Optimum(refusal=Refusal(f"{batch} lies outside of what was measured ({span})", f"{train} -m"))
    left, right = below[-1], above[0]
    for cell in (left, right):
        if cell.best_lr is None or cell.curve is None:
            # The study exists already: it takes more trials than it had, here twice the default, to go on.
            more = " hydra.sweeper.n_trials=48" if cell.batch == batch else ""
            return _Optimum(refusal=Refusal(_why_no_estimate(cell), f"{train}{more} -m"))
    assert left.curve is not None
    assert right.curve is not None
    if left is right:
        assert left.best_lr is not None
        assert left.ci_low is not None
        assert left.ci_high is not None
        return _Optimum(left.curve.argmins(), estimate=Estimate(left.best_lr, left.ci_low, left.ci_high))
    apart = math.log2(right.batch / left.batch)
    share = math.log2(batch / left.batch) / apart
    octaves = (1 - share) * left.curve.argmins() + share * right.curve.argmins()
    bend = curvature_allowance(apart, share)
    return _Optimum(octaves, bend, _estimate(octaves, higher=bend), (left.batch, right.batch))


def curvature_allowance(apart: float, share: float) -> float:
    """Octaves by which the best LR may lie above the line between two batch sizes, `share` of the way from one.

    The rules saturating and surge both bend at the noise scale. In the middle of a line over it they lie
    log2 cosh(apart · ln 2 / 4) above: 0.02 octave for batches one octave `apart`, 0.09 for two, 0.32 for four.

    >>> round(curvature_allowance(2, 0.5), 3)
    0.085
    """
    return 4 * share * (1 - share) * math.log2(math.cosh(apart * math.log(2) / 4))


def _why_no_estimate(cell: BatchResult) -> str:
    if cell.censored:
        side = "below" if cell.censored == "low" else "above"
        return f"at {cell.batch} the best LR may lie {side} what was tried (censored)"
    return f"at {cell.batch} there are too few usable runs for an estimate"


def _estimate(octaves: np.ndarray, higher: float = 0.0, lower: float = 0.0) -> Estimate:
    """Median and 95 % interval of 2^`octaves`, [D] draws; the ends moved outwards by `higher` and `lower` octaves."""
    value, low, high = (float(quantile) for quantile in np.quantile(octaves, (0.5, 0.025, 0.975)))
    return Estimate(2**value, 2 ** (low - lower), 2 ** (high + higher))


def _times(factor: float, estimate: Estimate) -> Estimate:
    return Estimate(factor * estimate.value, factor * estimate.low, factor * estimate.high)


def to_json(advice: Advice) -> dict[str, Any]:
    """The advice as plain data: the fields of `Advice`."""
    return asdict(advice)
