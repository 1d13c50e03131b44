"""Learning-rate scaling rules: from (base LR, base batch, batch) to an LR.

Notation: ``κ = batch / base_batch``. A rule returns a *factor* on the base LR, which is 1 at the base batch.

To add a rule:
1. Write its function, with its source, and its entry in `RULES`. `python -m pipeline.advise` then lists it, and with a
   `judged_exponent` every report gives verdicts on it. A new kind of parameter is also a field of `Scaling` and of
   `pipeline.analysis.stats.advice.Question`, and an option of `pipeline.advise`.
2. Add `conf/scaling/NAME.yaml`, so that `scaling=NAME` chooses it.
3. Add its formula to `LAWS` in `pipeline.analysis.stats.laws`, so that reports fit it to the best LRs; or name it in
   tests/analysis/test_laws.py as one that is not fitted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import RequestError
from pipeline.recipe.checks import check_batch, check_positive


@dataclass(kw_only=True)
class Scaling:
    """The group `scaling` of the configuration.

    Attributes:
        rule: one of `RULES`.
        base_batch: the batch, in examples, at which the base LR was tuned.
        weight_decay: `fixed` or `per_epoch`; see `scale_weight_decay`.
        exponent: of the rule power.
        noise_scale: of the rules saturating and surge, in examples.
        base_lr_tuned: whether the base LR is known to be right, so that a sweep judges the rules from it, and not from
            the best LR that it finds at the base batch.
    """

    rule: str
    base_batch: int
    weight_decay: str = "fixed"
    exponent: float | None = None
    noise_scale: float | None = None
    base_lr_tuned: bool = False


def _fixed(batch: int, base_batch: int) -> float:
    """The control: η = η0."""
    return 1.0


def _linear(batch: int, base_batch: int) -> float:
    """η = η0·κ (Goyal et al. 2017, arXiv:1706.02677, section 2.1)."""
    return batch / base_batch


def _sqrt(batch: int, base_batch: int) -> float:
    """η = η0·√κ (Krizhevsky 2014, arXiv:1404.5997; Hoffer et al. 2017, arXiv:1705.08741)."""
    return math.sqrt(batch / base_batch)


def _power(batch: int, base_batch: int, *, exponent: float) -> float:
    """η = η0·κ^α, the general form that is fitted."""
    return (batch / base_batch) ** exponent


def _saturating(batch: int, base_batch: int, *, noise_scale: float) -> float:
    """η = η0·(1 + Bn/B0)/(1 + Bn/B) (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.6)."""
    return (1 + noise_scale / base_batch) / (1 + noise_scale / batch)


def _surge(batch: int, base_batch: int, *, noise_scale: float) -> float:
    """η ∝ 1 / ½(√(Bn/B) + √(B/Bn)): grows as √B, peaks at Bn, then falls (Li et al. 2024, arXiv:2405.14578)."""

    def denominator(b: int) -> float:
        return 0.5 * (math.sqrt(noise_scale / b) + math.sqrt(b / noise_scale))

    return denominator(base_batch) / denominator(batch)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A scaling rule, as used in training, in advice and in the analysis.

    Attributes:
        factor: ``factor(batch, base_batch, **parameters)``, the factor on the base LR.
        meant_for: optimizers and batch sizes that it was derived for, in a few words.
        parameters: the fields of `Scaling` that it needs.
        customary_for: `sgd` or `adam`, where it is the usual rule for that kind of optimizer.
        scales_adam: whether it changes Adam's betas and eps, too: see `scale_betas` and `scale_eps`.
        judged_exponent: α where the factor is κ^α and reports should give verdicts on the rule.
    """

    factor: Callable[..., float]
    meant_for: str
    parameters: tuple[str, ...] = ()
    customary_for: str | None = None
    scales_adam: bool = False
    judged_exponent: float | None = None


RULES: Mapping[str, Rule] = {
    "fixed": Rule(factor=_fixed, meant_for="any: the control", judged_exponent=0.0),
    "linear": Rule(factor=_linear, meant_for="SGD, below the noise scale", customary_for="sgd", judged_exponent=1.0),
    "sqrt": Rule(factor=_sqrt, meant_for="Adam-like", customary_for="adam", judged_exponent=0.5),
    "power": Rule(factor=_power, meant_for="any, with a fitted exponent", parameters=("exponent",)),
    "saturating": Rule(factor=_saturating, meant_for="SGD, all batch sizes", parameters=("noise_scale",)),
    "adam_sde": Rule(factor=_sqrt, meant_for="Adam, while κ(1−β) < 1", customary_for="adam", scales_adam=True),
    "surge": Rule(factor=_surge, meant_for="Adam-like", parameters=("noise_scale",)),
}
PARAMETERS = tuple(dict.fromkeys(name for rule in RULES.values() for name in rule.parameters))
WEIGHT_DECAY_MODES = ("fixed", "per_epoch")


def find_rule(name: str) -> Rule:
    """Return the rule of that name; raise RequestError if there is none."""
    if name not in RULES:
        raise RequestError(f"scaling.rule={name}: no such rule.\nChoose one of: {', '.join(RULES)}.")
    return RULES[name]


def scale_factor(scaling: Scaling, batch: int) -> float:
    """Factor on the base LR at `batch` examples.

    Raises:
        RequestError: unknown rule, a non-positive batch, a parameter that is missing, unused or non-positive.

    >>> scale_factor(Scaling(rule="linear", base_batch=64), batch=256)
    4.0
    """
    rule = find_rule(scaling.rule)
    check_batch("batch", batch)
    check_batch("scaling.base_batch", scaling.base_batch)
    given = {name: getattr(scaling, name) for name in PARAMETERS if getattr(scaling, name) is not None}
    if missing := [name for name in rule.parameters if name not in given]:
        raise RequestError(f"scaling={scaling.rule} needs scaling.{missing[0]}.\nSet it: scaling.{missing[0]}=NUMBER.")
    if unused := [name for name in given if name not in rule.parameters]:
        used = ", ".join(rule.parameters) or "none"
        raise RequestError(
            f"scaling.{unused[0]}={given[unused[0]]} is not used by the rule {scaling.rule} (its parameters: {used})."
            "\nLeave it out, or choose the rule that uses it."
        )
    for name, value in given.items():
        check_positive(f"scaling.{name}", value)
    return rule.factor(batch, scaling.base_batch, **given)


def scale_lr(scaling: Scaling, base_lr: float, batch: int) -> float:
    """The LR at `batch`, from the base LR; errors as in `scale_factor`.

    >>> scale_lr(Scaling(rule="sqrt", base_batch=64), base_lr=0.1, batch=256)
    0.2
    """
    check_positive("optimizer.base_lr", base_lr)
    return base_lr * scale_factor(scaling, batch)


def scale_betas(scaling: Scaling, betas: Sequence[float], batch: int) -> tuple[float, ...]:
    """Adam's β at `batch`: adam_sde keeps κ(1−β) (Malladi et al. 2022, arXiv:2205.10287), other rules keep β.

    Raises:
        RequestError: κ(1−β) reaches 1 under adam_sde, where no such β exists.
    """
    if not find_rule(scaling.rule).scales_adam:
        return tuple(betas)
    kappa = batch / scaling.base_batch
    for beta in betas:
        # The slack is for rounding: with β1 = 0.9 the product is 0.9999999999999998 at κ = 10.
        if kappa * (1 - beta) >= 1 - 1e-9:
            largest = math.ceil(scaling.base_batch / (1 - beta) - 1e-6) - 1
            raise RequestError(
                f"scaling=adam_sde can't go from batch {scaling.base_batch} to {batch}: κ(1−β) = "
                f"{kappa * (1 - beta):.3g} with β = {beta:g}, and it must stay below 1.\n"
                f"Use a batch of at most {largest}, or scaling=sqrt."
            )
    return tuple(1 - kappa * (1 - beta) for beta in betas)


def scale_eps(scaling: Scaling, eps: float, batch: int) -> float:
    """Adam's ε at `batch`: ε/√κ for adam_sde (Malladi et al. 2022), unchanged for the other rules."""
    return eps / math.sqrt(batch / scaling.base_batch) if find_rule(scaling.rule).scales_adam else eps


def scale_weight_decay(scaling: Scaling, weight_decay: float, batch: int) -> float:
    """Weight decay λ at `batch`: `fixed` keeps λ, `per_epoch` keeps the decay of one epoch, η·λ·steps.

    The steps of an epoch go as 1/κ, so λ goes as κ/(η/η0): unchanged under linear, √κ under sqrt.
    """
    if scaling.weight_decay not in WEIGHT_DECAY_MODES:
        raise RequestError(
            f"scaling.weight_decay={scaling.weight_decay}: no such mode."
            f"\nChoose one of: {', '.join(WEIGHT_DECAY_MODES)}."
        )
    if scaling.weight_decay == "fixed":
        return weight_decay
    return weight_decay * (batch / scaling.base_batch) / scale_factor(scaling, batch)
