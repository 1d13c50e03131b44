"""Learning-rate scaling rules: from (base LR, base batch, batch) to an LR.

Notation: ``κ = batch / base_batch``. Every rule returns a *factor* on the base LR that is 1 at the base
batch. Sources stand beside each rule; which rule should hold when is told in the README.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.errors import RequestError


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


@dataclass(frozen=True)
class Rule:
    """A scaling rule: ``factor(batch, base_batch, **parameters)`` and the names of its parameters."""

    factor: Callable[..., float]
    parameters: tuple[str, ...] = ()


RULES: Mapping[str, Rule] = {
    "linear": Rule(_linear),
    "fixed": Rule(_fixed),
    "sqrt": Rule(_sqrt),
    "power": Rule(_power, ("exponent",)),
    "saturating": Rule(_saturating, ("noise_scale",)),
    # Its LR is the square root's; what it adds is what `scale_betas` and `scale_eps` do.
    "adam_sde": Rule(_sqrt),
    "surge": Rule(_surge, ("noise_scale",)),
}


def scale_factor(rule: str, base_batch: int, batch: int, **parameters: float | None) -> float:
    """Factor by which `rule` multiplies the base LR when the batch goes from `base_batch` to `batch`.

    Args:
        rule: one of `RULES`.
        base_batch: examples in one optimizer step at which the base LR was tuned.
        batch: examples in one optimizer step now.
        parameters: `exponent` for power, `noise_scale` (in examples) for saturating and surge; None is unset.

    Raises:
        RequestError: unknown rule, a non-positive batch, a parameter that is missing, unknown or non-positive.

    >>> scale_factor("linear", base_batch=64, batch=256)
    4.0
    """
    if rule not in RULES:
        raise RequestError(f"scaling.rule={rule}: no such rule.\nChoose one of: {', '.join(RULES)}.")
    check_batch("batch", batch)
    check_batch("scaling.base_batch", base_batch)
    given = {name: value for name, value in parameters.items() if value is not None}
    wanted = RULES[rule].parameters
    if missing := [name for name in wanted if name not in given]:
        raise RequestError(f"scaling={rule} needs scaling.{missing[0]}.\nSet it: scaling.{missing[0]}=NUMBER.")
    if unused := [name for name in given if name not in wanted]:
        allowed = ", ".join(wanted) or "none"
        raise RequestError(
            f"scaling.{unused[0]}={given[unused[0]]} is not used by the rule {rule} (its parameters: {allowed})."
            "\nLeave it out, or choose the rule that uses it."
        )
    for name, value in given.items():
        check_positive(f"scaling.{name}", value)
    return RULES[rule].factor(batch, base_batch, **given)


def scale_lr(rule: str, base_lr: float, base_batch: int, batch: int, **parameters: float | None) -> float:
    """The LR that `rule` gives at `batch`, from `base_lr` tuned at `base_batch`; errors as in `scale_factor`.

    >>> scale_lr("sqrt", base_lr=0.1, base_batch=64, batch=256)
    0.2
    """
    check_positive("optimizer.base_lr", base_lr)
    return base_lr * scale_factor(rule, base_batch, batch, **parameters)


def scale_betas(rule: str, betas: tuple[float, ...], base_batch: int, batch: int) -> tuple[float, ...]:
    """Adam's β under `rule`: adam_sde keeps κ(1−β) (Malladi et al. 2022, arXiv:2205.10287), others keep β.

    Raises:
        RequestError: κ(1−β) reaches 1 under adam_sde, where no such β exists.
    """
    if rule != "adam_sde":
        return betas
    kappa = batch / base_batch
    for beta in betas:
        # With β1 = 0.9 the product is 0.9999999999999998 at κ = 10: without the slack the limit would slip by.
        if kappa * (1 - beta) >= 1 - 1e-9:
            largest = math.ceil(base_batch / (1 - beta) - 1e-6) - 1
            raise RequestError(
                f"scaling=adam_sde can't go from batch {base_batch} to {batch}: κ(1−β) = {kappa * (1 - beta):.3g} "
                f"with β = {beta:g}, and it must stay below 1.\n"
                f"Use a batch of at most {largest}, or scaling=sqrt."
            )
    return tuple(1 - kappa * (1 - beta) for beta in betas)


def scale_eps(rule: str, eps: float, base_batch: int, batch: int) -> float:
    """Adam's ε under `rule`: ε/√κ for adam_sde (Malladi et al. 2022), unchanged for the others."""
    return eps / math.sqrt(batch / base_batch) if rule == "adam_sde" else eps


def scale_weight_decay(mode: str, weight_decay: float, lr_factor: float, base_batch: int, batch: int) -> float:
    """Weight decay λ at the new batch: `fixed` keeps λ, `per_epoch` keeps the decay of one epoch, η·λ·steps.

    Steps an epoch go as 1/κ, so λ goes as κ/(η/η0): unchanged under linear, √κ under sqrt.
    """
    if mode not in ("fixed", "per_epoch"):
        raise RequestError(f"scaling.weight_decay={mode}: no such mode.\nChoose one of: fixed, per_epoch.")
    return weight_decay if mode == "fixed" else weight_decay * (batch / base_batch) / lr_factor


def check_batch(name: str, value: object) -> None:
    """Refuse what can't be a number of examples: `name` is the key that held `value`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"{name}={value}: a number of examples is a whole number from 1 up.")


def check_positive(name: str, value: object) -> None:
    """Refuse what is not a finite number above zero: `name` is the key that held `value`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type, operator]
        raise RequestError(f"{name}={value}: it must be a finite number above 0.")
