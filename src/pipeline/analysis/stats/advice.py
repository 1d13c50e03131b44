"""Advice: the LR for another batch size, by each scaling rule and by the evidence of runs that were measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.stats.results import Answer, BatchResult, Estimate
from pipeline.errors import RequestError
from pipeline.recipe.scaling import RULES, Scaling, scale_betas, scale_eps, scale_lr


@dataclass(frozen=True)
class Question:
    """What LR is best at `to_batch`, given one that was tuned at `from_batch`; None where a value isn't known.

    Attributes:
        betas, eps: Adam's, at `from_batch`; with betas the optimizer counts as Adam.
        exponent, noise_scale: parameters of rules that need them; the noise scale is in examples.
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
    """The LR by one rule; where `lr` is None, `reason` says why."""

    rule: str
    meant_for: str
    customary: bool
    lr: float | None = None
    betas: tuple[float, ...] | None = None
    eps: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why the runs support no estimate, and the command for the runs that would."""

    reason: str
    command: str


@dataclass(frozen=True)
class Evidence:
    """What measured runs say; every interval is a 95 % interval.

    Attributes:
        measured: the batch sizes that were run.
        best_lr: the best LR at the new batch size; where it is None, `refusal` says why.
        between: the two batch sizes that `best_lr` is interpolated from; None where the new one itself was run.
        ratio: the best LR at the new batch size, divided by that at the old one; see `ratio_refusal`.
        ratio_between: as `between`, for the old batch size.
        scaled_lr: the LR in the question, times `ratio`.
        base_batch: the batch size whose best LR the linear rule starts from.
        linear: the linear rule's verdict at the new batch size; None where that was not run, or is the base.
        margin, band: the LRs whose loss at the new batch size is within `margin` of the best.
        failing_lr: the lowest LR that fails at the new batch size.
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
    """The answer to a question; `evidence` is None where no runs were given."""

    question: Question
    rules: tuple[RuleAdvice, ...]
    evidence: Evidence | None


def advise(question: Question, answer: Answer | None = None) -> Advice:
    """Answer `question` by each rule, and by the runs behind `answer` where there are any."""
    rules = tuple(apply_rule(rule, question) for rule in RULES)
    return Advice(question, rules, None if answer is None else _evidence(question, answer))


def apply_rule(name: str, question: Question) -> RuleAdvice:
    """Return the LR, and Adam's betas and eps, by one rule; or the reason why the rule gives none."""
    rule = RULES[name]
    common = (name, rule.meant_for, rule.customary_for == ("adam" if question.betas else "sgd"))
    needed = (*rule.parameters, *(("betas",) if rule.scales_adam else ()))
    if missing := [parameter for parameter in needed if getattr(question, parameter) is None]:
        return RuleAdvice(*common, reason=f"needs --{missing[0].replace('_', '-')}")
    parameters = {parameter: getattr(question, parameter) for parameter in rule.parameters}
    scaling = Scaling(rule=name, base_batch=question.from_batch, **parameters)
    try:
        lr = scale_lr(scaling, question.from_lr, question.to_batch)
        betas = None if question.betas is None else scale_betas(scaling, question.betas, question.to_batch)
        eps = None if question.eps is None else scale_eps(scaling, question.eps, question.to_batch)
    except RequestError as error:
        return RuleAdvice(*common, reason=" ".join(str(error).splitlines()))
    except OverflowError:
        lr = math.inf
    if not 0 < lr < math.inf:
        return RuleAdvice(*common, reason="the LR is too large or too small for a floating-point number")
    return RuleAdvice(*common, lr, betas, eps)


def _evidence(question: Question, answer: Answer) -> Evidence:
    """What the runs behind `answer` say about `question`; nothing is extrapolated."""
    new, old = _best_lr(answer.batches, question.to_batch), _best_lr(answer.batches, question.from_batch)
    ratio = scaled_lr = None
    if new.octaves is not None and old.octaves is not None:
        # If the old batch size's best LR lies above its interpolation, the ratio is lower.
        ratio = _estimate(new.octaves - old.octaves, higher=new.allowance, lower=old.allowance)
        scaled_lr = Estimate(*(question.from_lr * end for end in (ratio.value, ratio.low, ratio.high)))
    there = next((cell for cell in answer.batches if cell.batch == question.to_batch), None)
    band = linear = None
    if there is not None and there.band_low is not None and there.band_high is not None:
        band = (there.band_low, there.band_high)
    if there is not None and there.rules and there.batch != answer.base_batch:
        linear = there.rules["linear"].verdict
    return Evidence(
        measured=tuple(cell.batch for cell in answer.batches),
        best_lr=new.estimate,
        between=new.between,
        refusal=new.refusal,
        ratio=ratio,
        ratio_between=old.between,
        ratio_refusal=old.refusal,
        scaled_lr=scaled_lr,
        base_batch=answer.base_batch,
        linear=linear,
        margin=answer.margin,
        band=band,
        failing_lr=None if there is None else there.failing_lr,
    )


@dataclass(frozen=True)
class _BestLr:
    """[D] posterior draws of log2 of the best LR at one batch size, or a refusal.

    Where the draws are interpolated, the best LR may lie `allowance` octaves above them; `estimate` includes this.
    """

    octaves: np.ndarray | None = None
    allowance: float = 0.0
    estimate: Estimate | None = None
    between: tuple[int, int] | None = None
    refusal: Refusal | None = None


def _best_lr(cells: Sequence[BatchResult], batch: int) -> _BestLr:
    """The best LR at `batch`: as measured there, else by a power law between its two neighbours."""
    below = [cell for cell in cells if cell.batch <= batch]
    above = [cell for cell in cells if cell.batch >= batch]
    train = f"python -m pipeline.train batch={batch}"
    if not below or not above:
        span = f"{cells[0].batch} … {cells[-1].batch}"
        return _BestLr(refusal=Refusal(f"{batch} lies outside of what was measured ({span})", f"{train} -m"))
    left, right = below[-1], above[0]
    draws = []
    for cell in (left, right):
        if cell.best_lr is None or cell.curve is None:
            # A study of this batch size exists: it only continues with more trials, here twice the default.
            more = " hydra.sweeper.n_trials=48" if cell.batch == batch else ""
            return _BestLr(refusal=Refusal(_why_no_estimate(cell), f"{train}{more} -m"))
        draws.append(cell.curve.argmins())
    if left is right:
        return _BestLr(draws[0], estimate=left.best_interval)
    distance = math.log2(right.batch / left.batch)
    share = math.log2(batch / left.batch) / distance
    octaves = (1 - share) * draws[0] + share * draws[1]
    allowance = curvature_allowance(distance, share)
    return _BestLr(octaves, allowance, _estimate(octaves, higher=allowance), (left.batch, right.batch))


def curvature_allowance(distance: float, share: float) -> float:
    """Return the octaves by which the best LR may lie above a power law between two batch sizes.

    The laws saturating and surge are concave in log-log coordinates, most strongly at the noise scale. If that lies
    midway between the two batch sizes, the law is log2 cosh(distance · ln 2 / 4) above the straight line there: 0.02
    octaves at a distance of one octave, 0.09 at two, 0.32 at four.

    Args:
        distance: octaves between the two batch sizes.
        share: how far along the line, 0 to 1.

    >>> round(curvature_allowance(2, 0.5), 3)
    0.085
    """
    return 4 * share * (1 - share) * math.log2(math.cosh(distance * math.log(2) / 4))


def _why_no_estimate(cell: BatchResult) -> str:
    if cell.censored:
        side = "below" if cell.censored == "low" else "above"
        return f"at {cell.batch} the best LR may lie {side} what was tried (censored)"
    return f"at {cell.batch} there are too few usable runs for an estimate"


def _estimate(octaves: np.ndarray, higher: float = 0.0, lower: float = 0.0) -> Estimate:
    """Median and 95 % interval of 2^octaves, with the ends moved outwards by `higher` and `lower` octaves."""
    value, low, high = (float(quantile) for quantile in np.quantile(octaves, (0.5, 0.025, 0.975)))
    return Estimate(2**value, 2 ** (low - lower), 2 ** (high + higher))
