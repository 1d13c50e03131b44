"""Learning-rate schedules: from the optimizer step to a factor on the LR.

Everything is a fraction of the run or a number of epochs, never a number of steps or an LR: those would mean
something else at another batch size. To add a schedule, write its function of the run's progress and list it in
`SCHEDULES`; a key that is new goes into `Schedule`, too.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.errors import RequestError

LRFactor = Callable[[int], float]
"""Maps a step, counted from 0, to the factor on the LR at that step."""


@dataclass(kw_only=True)
class Schedule:
    """The group `schedule` of the configuration; None where a schedule doesn't use a key.

    Attributes:
        name: one of `SCHEDULES`.
        warmup_fraction: length of the warmup as a fraction of the run, in [0, 1).
        warmup_epochs: length of the warmup in epochs; not together with `warmup_fraction`.
        final_factor: of cosine and linear: the factor at the end, in [0, 1].
        milestones: of step: fractions of the run after warmup.
        gamma: of step: the factor at each milestone, in [0, 1].
    """

    name: str
    warmup_fraction: float | None = None
    warmup_epochs: float | None = None
    final_factor: float | None = None
    milestones: list[float] | None = None
    gamma: float | None = None


def _constant(progress: float) -> float:
    return 1.0


def _cosine(progress: float, *, final_factor: float) -> float:
    """Half a cosine from 1 to `final_factor` (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, no restarts)."""
    return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float, *, final_factor: float) -> float:
    return 1 - (1 - final_factor) * progress


def _step(progress: float, *, milestones: list[float], gamma: float) -> float:
    """`gamma` to the number of `milestones` (fractions of the run after warmup) that were passed."""
    return gamma ** sum(progress >= milestone for milestone in milestones)


SCHEDULES: Mapping[str, Callable[..., float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "step": _step,
    "linear": _linear,
}
SHAPE = ("final_factor", "milestones", "gamma")


def make_schedule(settings: Schedule, total_steps: int, steps_per_epoch: float) -> LRFactor:
    """The factor on the LR at each step of a run.

    Gradual warmup (Goyal et al. 2017, section 2.2) rises in equal increments, one a step: over W steps the
    factors are 1/(W+1) … W/(W+1), and the step after it has the full LR.

    Args:
        total_steps: optimizer steps in the run.
        steps_per_epoch: training examples divided by the batch; need not be whole.

    Raises:
        RequestError: unknown name, missing or unused keys, or values out of range.

    >>> cosine = make_schedule(Schedule(name="cosine", final_factor=0.0), 100, 20.0)
    >>> cosine(0), cosine(50)
    (1.0, 0.5)
    """
    name = settings.name
    if name not in SCHEDULES:
        raise RequestError(f"schedule.name={name}: no such schedule.\nChoose one of: {', '.join(SCHEDULES)}.")
    shape = {key: getattr(settings, key) for key in SHAPE if getattr(settings, key) is not None}
    _check_shape(name, shape)
    warmup_steps = _warmup_steps(settings, total_steps, steps_per_epoch)
    curve = SCHEDULES[name]

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return curve((step - warmup_steps) / (total_steps - warmup_steps), **shape)

    return factor


def _check_shape(name: str, shape: Mapping[str, object]) -> None:
    known = [key for key in inspect.signature(SCHEDULES[name]).parameters if key != "progress"]
    if missing := [key for key in known if key not in shape]:
        raise RequestError(f"schedule={name} needs schedule.{missing[0]}.")
    if unknown := [key for key in shape if key not in known]:
        allowed = ", ".join(["warmup_epochs", "warmup_fraction", *known])
        raise RequestError(f"schedule.{unknown[0]} is not used by schedule={name}.\nIts keys: {allowed}.")
    for key in ("final_factor", "gamma"):
        value = shape.get(key, 0.0)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise RequestError(f"schedule.{key}={value}: it must be a number from 0 to 1.")
    for value in shape.get("milestones", ()):  # type: ignore[attr-defined]
        if not isinstance(value, int | float) or not 0 < value < 1:
            raise RequestError(
                f"schedule.milestones holds {value}: milestones are fractions of the run, between 0 and 1."
                "\nFor epochs 30 and 60 of 90 write [0.333, 0.667]."
            )


def _warmup_steps(settings: Schedule, total_steps: int, steps_per_epoch: float) -> int:
    epochs, fraction = settings.warmup_epochs, settings.warmup_fraction
    if epochs is not None and fraction is not None:
        raise RequestError(
            f"schedule.warmup_epochs={epochs} and schedule.warmup_fraction={fraction} exclude each other."
            "\nSet one of them to null."
        )
    if fraction is not None and not 0 <= fraction < 1:
        raise RequestError(f"schedule.warmup_fraction={fraction}: it must be at least 0 and below 1.")
    if epochs is not None and not 0 <= epochs < math.inf:
        raise RequestError(f"schedule.warmup_epochs={epochs}: it must be 0 or more.")
    steps = round(epochs * steps_per_epoch if epochs is not None else (fraction or 0.0) * total_steps)
    if steps >= total_steps and steps > 0:
        given = f"warmup_epochs={epochs}" if epochs is not None else f"warmup_fraction={fraction}"
        raise RequestError(
            f"schedule.{given}: a warmup of {steps} steps fills the whole run of {total_steps}."
            "\nShorten it, or raise the budget."
        )
    return steps
