"""Training budgets: what stays equal as the batch grows, turned into steps and evaluation points."""

from dataclasses import dataclass

from pipeline.errors import RequestError
from pipeline.scaling import check_batch, check_positive


@dataclass(frozen=True)
class TrainingPlan:
    """A budget worked out for one batch size and one data set.

    Attributes:
        total_steps: optimizer steps in the run (the most, where a target may end it early).
        evaluation_steps: the steps after which the model is evaluated, rising, the last one `total_steps`.
        steps_per_epoch: training examples divided by the batch; need not be whole.
        target: (metric, threshold) that ends the run once the metric is below it, or None.
    """

    total_steps: int
    evaluation_steps: tuple[int, ...]
    steps_per_epoch: float
    target: tuple[str, float] | None = None


KEYS = {
    "epochs": ("epochs",),
    "steps": ("steps",),
    "examples": ("examples",),
    "target": ("metric", "threshold", "eval_examples", "max_epochs"),
}
TARGET_METRICS = ("val/loss", "val/error", "train/loss", "train/error")


def plan_training(kind: str, batch: int, train_examples: int, **values: object) -> TrainingPlan:
    """Turn a budget into steps: its examples divided by the batch, rounded, and at least one.

    Rounding, rather than dropping a partial batch each epoch, keeps the number of examples seen equal to
    within half a batch at every batch size; no example is lost.

    Args:
        kind: `epochs`, `steps`, `examples` or `target`.
        batch: examples in one optimizer step, at most `train_examples`.
        train_examples: size of the training split.
        values: the kind's own keys (`KEYS`); None is unset. `eval_examples=None` evaluates once an epoch.

    Raises:
        RequestError: unknown kind, keys that are missing, unknown or out of range, a batch beyond the data.

    >>> plan_training("epochs", batch=64, train_examples=1000, epochs=2).total_steps
    31
    """
    if kind not in KEYS:
        raise RequestError(f"budget.kind={kind}: no such budget.\nChoose one of: {', '.join(KEYS)}.")
    check_batch("batch", batch)
    if batch > train_examples:
        raise RequestError(
            f"batch={batch} is larger than the training split of {train_examples} examples."
            f"\nUse a batch from 1 to {train_examples}, or a larger data set."
        )
    given = {key: value for key, value in values.items() if value is not None}
    _check_keys(kind, given)
    if kind == "target":
        return _plan_target(batch, train_examples, **given)  # type: ignore[arg-type]
    amount = float(given[kind])  # type: ignore[arg-type]
    examples_each = {"epochs": train_examples, "steps": batch, "examples": 1}[kind]
    return _plan(amount * examples_each, batch, train_examples, evaluate_every=train_examples)


def _plan(examples: float, batch: int, train_examples: int, evaluate_every: int) -> TrainingPlan:
    total = max(1, round(examples / batch))
    evaluations: list[int] = []
    count = 1
    while (step := round(count * evaluate_every / batch)) < total:
        # A step that an earlier evaluation already covers (evaluate_every below the batch) counts once.
        if step > (evaluations[-1] if evaluations else 0):
            evaluations.append(step)
        count += 1
    return TrainingPlan(total, (*evaluations, total), train_examples / batch)


def _plan_target(
    batch: int,
    train_examples: int,
    *,
    metric: str,
    threshold: float,
    max_epochs: float,
    eval_examples: int | None = None,
) -> TrainingPlan:
    if metric not in TARGET_METRICS:
        raise RequestError(f"budget.metric={metric}: no such metric.\nChoose one of: {', '.join(TARGET_METRICS)}.")
    plan = _plan(max_epochs * train_examples, batch, train_examples, eval_examples or train_examples)
    return TrainingPlan(plan.total_steps, plan.evaluation_steps, plan.steps_per_epoch, (metric, threshold))


def _check_keys(kind: str, given: dict[str, object]) -> None:
    optional = ("eval_examples",)
    if missing := [key for key in KEYS[kind] if key not in given and key not in optional]:
        raise RequestError(f"budget={kind} needs budget.{missing[0]}.")
    if unknown := [key for key in given if key not in KEYS[kind]]:
        raise RequestError(f"budget.{unknown[0]} is not used by budget={kind}.\nIts keys: {', '.join(KEYS[kind])}.")
    for key, value in given.items():
        if key in ("steps", "examples", "eval_examples"):
            check_batch(f"budget.{key}", value)
        elif key != "metric":
            check_positive(f"budget.{key}", value)
