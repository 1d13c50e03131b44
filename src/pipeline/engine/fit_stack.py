"""The training loop of a stack: `fit` for several replicates at once, without workers, accumulation or resuming."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.data.replicates import StackedSplit
from pipeline.data.splits import Splits
from pipeline.data.stream import ExampleStream
from pipeline.engine.fit import WINDOWS_PER_EPOCH
from pipeline.engine.noise_scale import NoiseSample
from pipeline.engine.runtime import FP32, Precision
from pipeline.engine.stack import MakeOptimizer, Stack
from pipeline.engine.stopping import DivergenceMonitor, Evaluation, FitResult, status_after, status_at_end
from pipeline.recipe.budget import TrainingPlan
from pipeline.recipe.schedule import LRFactor


@dataclass
class Replicate:
    """One of the runs that train together.

    Attributes:
        seed, model, splits: what makes it another run: its seed, its network with initial weights, and its data.
        result: how it went so far.
        is_running: whether it has not ended yet.
    """

    seed: int
    model: nn.Module
    splits: Splits
    result: FitResult = field(default_factory=FitResult)
    is_running: bool = True

    def __post_init__(self) -> None:
        self.monitor = DivergenceMonitor(self.splits.guess_loss)

    def end(self, status: str) -> None:
        """End it; what its part of the stack computes from now on reaches no result."""
        self.result.status = status
        self.is_running = False


def fit_stack(
    replicates: Sequence[Replicate],
    make_optimizer: MakeOptimizer,
    plan: TrainingPlan,
    schedule: LRFactor,
    *,
    batch: int,
    precision: Precision = FP32,
    noise_sample: NoiseSample | None = None,
    on_window: Callable[[int], None] = lambda step: None,
    should_prune: Callable[[Sequence[Evaluation]], bool] = lambda evaluations: False,
) -> list[FitResult]:
    """Train all `replicates` together; each result is that of `fit` alone, to within rounding.

    A replicate that has ended (it diverged, or reached its target) stays in the stack, since leaving it out would cost
    more than it saves.

    Args:
        replicates: of one architecture, with data sets of equal sizes; `why_not_stacked` has passed the first.
        make_optimizer: see `Stack`.
        plan, schedule, batch, precision, on_window: as for `fit`.
        noise_sample: measured in the first replicate only.
        should_prune: asked after each evaluation, with those of the replicates that go on, whether to end all.

    Returns:
        For each replicate its result. The last evaluation has the test split's metrics where `has_test` is true.
    """
    seeds = [replicate.seed for replicate in replicates]
    stack = Stack([replicate.model for replicate in replicates], make_optimizer, precision)
    train, val, test = (
        StackedSplit([getattr(replicate.splits, part) for replicate in replicates], seeds)
        for part in ("train", "val", "test")
    )
    stream = ExampleStream(len(train), seeds, train.index_device)
    batches = train.batches(stream.slices(batch, plan.total_steps), augment=True)
    stack.train()
    begin = 0
    for epoch, end in enumerate(plan.evaluation_steps, start=1):
        sums, seconds = _train_until(end, begin, stack, batches, replicates, plan, schedule, on_window)
        running = [index for index, replicate in enumerate(replicates) if replicate.is_running]
        if not running:
            break
        metrics = _evaluate(stack, val, sums, end - begin, batch, seconds)
        for index in running:
            replicate, own = replicates[index], metrics[index]
            evaluation = Evaluation(epoch, end, own | {"optimizer_steps": end, "examples": end * batch})
            replicate.result.evaluations.append(evaluation)
            status = status_after(evaluation, replicate.monitor, plan)
            if index == 0 and noise_sample is not None and status != "diverged":
                from_end = -1 if status else epoch - len(plan.evaluation_steps) - 1
                if not {epoch, from_end}.isdisjoint(noise_sample.epochs):
                    scale = noise_sample.measure(stack.model(0), replicate.splits.train, replicate.seed)
                    evaluation.metrics.update(scale.metrics("noise_scale"))
            if status is None and end == plan.total_steps:
                status = status_at_end(evaluation, replicate.monitor, plan)
            if status is not None:
                replicate.end(status)
        going_on = [replicates[index] for index in running if replicates[index].is_running]
        if going_on and should_prune([replicate.result.evaluations[-1] for replicate in going_on]):
            for replicate in going_on:
                replicate.end("pruned")
        _test(stack, test, replicates, [index for index in running if not replicates[index].is_running])
        begin = end
    return [replicate.result for replicate in replicates]


def _train_until(
    end: int,
    done: int,
    stack: Stack,
    batches: Iterator[tuple[Tensor, Tensor]],
    replicates: Sequence[Replicate],
    plan: TrainingPlan,
    schedule: LRFactor,
    on_window: Callable[[int], None],
) -> tuple[Tensor, float]:
    """Train from `done` until `end` steps, or until all have diverged; return sums of losses and errors, and seconds.

    The sums are [2, K]. Divergence is judged by each window's mean loss, as in `fit`.
    """
    window = max(1, round(plan.steps_per_epoch / WINDOWS_PER_EPOCH))
    sums = torch.zeros(2, len(replicates), dtype=torch.float64)
    started = time.perf_counter()
    while done < end and any(replicate.is_running for replicate in replicates):
        # The first window is one step long: its loss is the start that divergence is measured against.
        stop = min(done + window, end) if done else 1
        of_steps = [stack.step(*next(batches), schedule(step)) for step in range(done, stop)]
        in_window = torch.stack([torch.stack(parts).sum(0).double() for parts in zip(*of_steps, strict=True)]).cpu()
        sums += in_window
        for replicate, loss in zip(replicates, (in_window[0] / (stop - done)).tolist(), strict=True):
            if replicate.is_running:
                replicate.result.steps = stop
                if replicate.monitor.diverged(loss):
                    replicate.end("diverged")
        done = stop
        on_window(done)
    seconds = time.perf_counter() - started
    for replicate in replicates:
        replicate.result.train_seconds += seconds / len(replicates)
    return sums, seconds


def _evaluate(
    stack: Stack, val: StackedSplit, sums: Tensor, steps: int, batch: int, seconds: float
) -> list[dict[str, float]]:
    """Return each replicate's metrics of training, over the last `steps` that took `seconds`, and of validation."""
    losses, errors = stack.evaluate(val)
    columns = {
        "train/loss": (sums[0] / steps).tolist(),
        "train/error": (sums[1] / (steps * batch)).tolist(),
        # Of all replicates together, as the machine trains them.
        "examples_per_second": [stack.size * steps * batch / seconds] * stack.size,
        "val/loss": losses,
        "val/error": errors,
        "lr": [stack.optimizer.param_groups[0]["lr"]] * stack.size,
        "grad_norm": stack.grad_norms(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _test(stack: Stack, test: StackedSplit, replicates: Sequence[Replicate], ended: Sequence[int]) -> None:
    """Put the test split's metrics into the last evaluation of the replicates that have just ended with a result."""
    with_test = [index for index in ended if replicates[index].result.has_test]
    if with_test:
        losses, errors = stack.evaluate(test)
        for index in with_test:
            own = {"test/loss": losses[index], "test/error": errors[index]}
            replicates[index].result.evaluations[-1].metrics.update(own)
