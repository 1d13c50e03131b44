"""Training budgets: what stays equal as the batch grows, turned into steps and evaluation points."""

from dataclasses import dataclass

from pipeline.errors import RequestError
from pipeline.recipe.checks import check_batch, check_positive


@dataclass(kw_only=True)
class Budget:
    """The group `budget` of the configuration; None where a kind doesn't use a key.

    Attributes:
        kind: one of `KEYS`: `epochs`, `steps`, `examples` or `target`.
        epochs, steps, examples: the amount, for the kind of that name.
        metric, threshold: target ends the run once the metric is below the threshold.
        eval_examples: examples between a target's evaluations; None is one epoch.
        max_epochs: where a target ends at the latest.
    """

    kind: str
    epochs: float | None = None
    steps: int | None = None
    examples: int | None = None
    metric: str | None = None
    threshold: float | None = None
    eval_examples: int | None = None
    max_epochs: float | None = None


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


def plan_training(budget: Budget, batch: int, train_examples: int) -> TrainingPlan:
    """Turn a budget into steps: its examples divided by the batch, rounded, and at least one.

    Rounding, rather than dropping a partial batch each epoch, keeps the number of examples seen equal to
    within half a batch at every batch size; no example is lost.

    Args:
        batch: examples in one optimizer step, at most `train_examples`.
        train_examples: size of the training split.

    Raises:
        RequestError: unknown kind, keys that are missing, unused or out of range, a batch beyond the data.

    >>> plan_training(Budget(kind="epochs", epochs=2), batch=64, train_examples=1000).total_steps
    31
    """
    if budget.kind not in KEYS:
        raise RequestError(f"budget.kind={budget.kind}: no such budget.\nChoose one of: {', '.join(KEYS)}.")
    check_batch("batch", batch)
    if batch > train_examples:
        raise RequestError(
            f"batch={batch} is larger than the training split of {train_examples} examples."
            f"\nUse a batch from 1 to {train_examples}, or a larger data set."
        )
    _check_keys(budget)
    amount = getattr(budget, "max_epochs" if budget.kind == "target" else budget.kind)
    examples = amount * {"steps": batch, "examples": 1}.get(budget.kind, train_examples)
    total = max(1, round(examples / batch))
    every = budget.eval_examples or train_examples
    evaluations: list[int] = []
    count = 1
    while (step := round(count * every / batch)) < total:
        # A step that an earlier evaluation already covers (`every` below the batch) counts once.
        if step > (evaluations[-1] if evaluations else 0):
            evaluations.append(step)
        count += 1
    target = None
    if budget.metric is not None and budget.threshold is not None:
        target = budget.metric, budget.threshold
    return TrainingPlan(total, (*evaluations, total), train_examples / batch, target)


def _check_keys(budget: Budget) -> None:
    kind = budget.kind
    given = {key: value for key, value in vars(budget).items() if key != "kind" and value is not None}
    if missing := [key for key in KEYS[kind] if key not in given and key != "eval_examples"]:
        raise RequestError(f"budget={kind} needs budget.{missing[0]}.")
    if unused := [key for key in given if key not in KEYS[kind]]:
        raise RequestError(f"budget.{unused[0]} is not used by budget={kind}.\nIts keys: {', '.join(KEYS[kind])}.")
    for key, value in given.items():
        if key in ("steps", "examples", "eval_examples"):
            check_batch(f"budget.{key}", value)
        elif key != "metric":
            check_positive(f"budget.{key}", value)
    if budget.metric is not None and budget.metric not in TARGET_METRICS:
        raise RequestError(
            f"budget.metric={budget.metric}: no such metric.\nChoose one of: {', '.join(TARGET_METRICS)}."
        )
