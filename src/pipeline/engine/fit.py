"""The training loop."""

import functools
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pipeline.data.splits import Splits
from pipeline.data.stream import ExampleStream
from pipeline.distributed.world import SINGLE_PROCESS, World
from pipeline.engine.divergence import DivergenceMonitor
from pipeline.engine.evaluate import evaluate
from pipeline.engine.model_traits import has_unused_parameters
from pipeline.engine.noise_scale import NEVER, MicroBatchNoise, NoiseSample
from pipeline.engine.optimizer_step import Loop
from pipeline.engine.precision import FULL, Precision
from pipeline.engine.result import Evaluation, FitResult
from pipeline.engine.state import State, random_states, restore, state_of
from pipeline.recipe.budget import TrainingPlan
from pipeline.recipe.schedule import LRFactor

# How often an epoch's loss is looked at for divergence: often enough to save time, seldom enough that a window at
# batch 4 averages over fifty examples of the digits.
WINDOWS_PER_EPOCH = 20
# Several workers look together, and each look waits for the slowest: no oftener than once in so many steps, save for
# the run's first ones, in which most runs diverge that do. Steps, not seconds, since all must look at once.
STEPS_UNSEEN = 16


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    splits: Splits,
    plan: TrainingPlan,
    schedule: LRFactor,
    *,
    batch: int,
    seed: int,
    micro_batch: int | None = None,
    noise_sample: NoiseSample = NEVER,
    on_evaluation: Callable[[Evaluation], None] = lambda evaluation: None,
    on_state: Callable[[Evaluation, Callable[[], State]], None] = lambda evaluation, state: None,
    on_window: Callable[[int], None] = lambda step: None,
    should_prune: Callable[[Evaluation], bool] = lambda evaluation: False,
    resume_from: State | None = None,
    precision: Precision = FULL,
    compiled: bool = False,
    world: World = SINGLE_PROCESS,
) -> FitResult:
    """Train `model` on `splits.train` and evaluate it on `splits.val`, with the mean cross-entropy.

    The gradient of a step is that of the mean over all `batch` examples, however many forward passes of at
    most `micro_batch` form it, and however many workers make them.

    Args:
        model, optimizer: on the same device as `splits`; the LRs in the optimizer's groups are the peak ones.
        plan: how many steps, and when to evaluate.
        schedule: factor on the LR at each step.
        batch: examples in one optimizer step.
        seed: decides the order of examples and their augmentation.
        micro_batch: most examples in one forward pass; None is the whole batch.
        noise_sample: when to measure the noise scale, which changes nothing in the run; the default is never.
        on_evaluation: called with each evaluation as it is made.
        on_state: called before that, with the evaluation and a function that gives the run's whole state.
        on_window: called with the number of steps done, about twenty times an epoch.
        should_prune: asked after each evaluation whether to end the run there.
        resume_from: a state that a run of the same request was in: this one takes the steps that were left, the
            same ones to the last bit on a CPU.
        precision: what forward passes compute in.
        compiled: whether training's passes go through `torch.compile`: other rounding, the same numbers but for that.
        workers: this process's place among those that train `model` together. All call this function with equal
            arguments, and get equal results; what is called back, and `resume_from`, counts in the first alone.
    """
    if world.size > 1:
        resume_from = world.broadcast(resume_from)
        if not world.is_main:
            noise_sample = NEVER
    noise = MicroBatchNoise(model, batch, micro_batch, world, plan.total_steps / len(plan.evaluation_steps))
    # Each worker draws its own lots: where one has found some, all have to look for them.
    has_unused = world.size > 1 and world.all_reduce_sum([has_unused_parameters(model, splits.train)])[0] > 0
    loop = Loop(model, optimizer, batch, micro_batch, precision, world, noise, compiled, has_unused)
    health = DivergenceMonitor(splits.guess_loss)
    result = FitResult("complete", 0)
    if resume_from is not None:
        restore(resume_from, loop, health, result)
        if resume_from["over"] is not None:
            result.status = resume_from["over"]
            return result
    stream = ExampleStream(len(splits.train), seed, getattr(splits.train, "index_device", None))
    slices = stream.slices(*(batch, plan.total_steps, micro_batch, result.steps), shard=world.shard(batch))
    batches = splits.train.batches(slices, augment_seed=seed)
    window = max(1, round(plan.steps_per_epoch / WINDOWS_PER_EPOCH))
    model.train()
    with noise:
        for epoch, end in enumerate(plan.evaluation_steps, start=1):
            if epoch <= len(result.evaluations):
                continue  # before the state that it goes on from
            train = _train_until(loop, batches, schedule, result, end, window, health, on_window)
            if train is None:
                result.status = "diverged"
                return result
            evaluation = _evaluate(loop, splits, epoch, result, train)
            diverged = health.diverged(evaluation.metrics["val/loss"])
            reached = plan.target is not None and evaluation.metrics[plan.target[0]] < plan.target[1]
            if not diverged:
                from_end = -1 if reached else epoch - len(plan.evaluation_steps) - 1
                evaluation.metrics.update(_measure_noise(loop, splits, noise_sample, epoch, from_end, seed))
            result.evaluations.append(evaluation)
            over = "diverged" if diverged else "complete" if reached else None
            random = random_states(loop)
            if world.is_main:
                on_state(evaluation, functools.partial(state_of, loop, health, result, over, random))
                on_evaluation(evaluation)
            if diverged:
                result.status = "diverged"
                return result
            if reached:
                return result
            if world.broadcast(world.is_main and should_prune(evaluation)):
                result.status = "pruned"
                return result
    if health.stalled(result.evaluations[-1].metrics["train/loss"]):
        result.status = "stalled"
    elif plan.target:
        result.status = "missed"
    return result


def runs_ahead(device: torch.device) -> bool:
    """Whether the host goes on while `device` computes, so that to look at a result is to wait for it."""
    return device.type != "cpu"


def _is_due(loop: Loop, step: int, unseen: int) -> bool:
    """Whether to look at the last `unseen` steps after so many of the run, before the evaluation."""
    if runs_ahead(loop.device):
        return False
    return loop.world.size == 1 or step <= STEPS_UNSEEN or unseen >= STEPS_UNSEEN


def _train_until(
    loop: Loop,
    batches: Iterator[tuple[Tensor, Tensor]],
    schedule: LRFactor,
    result: FitResult,
    end: int,
    window: int,
    health: DivergenceMonitor,
    on_window: Callable[[int], None],
) -> dict[str, float] | None:
    """Take steps until `end` are done; mean loss and error of their batches, or None if the run diverged.

    Divergence is judged window by window; where the device would have to be waited for, all of them at the end, and
    where other workers would, once in a while.
    """
    begin, loss_sum, wrong_sum = result.steps, 0.0, 0.0
    unseen: list[Tensor] = []
    lengths: list[int] = []
    started, pauses = time.perf_counter(), 0.0
    while result.steps < end:
        # The first window is one step long: its loss is the start that divergence is measured against.
        stop = min(result.steps + window, end) if result.steps else 1
        for step in range(result.steps, stop):
            loop.step(batches, schedule(step))
        unseen.append(loop.drain())
        lengths.append(stop - result.steps)
        result.steps = stop
        if stop == end or _is_due(loop, stop, sum(lengths)):
            for (loss, wrong), steps in zip(loop.look(unseen), lengths, strict=True):
                if math.isnan(health.start_loss):
                    health.start(loss)
                if health.diverged(loss / steps):
                    return None
                loss_sum += loss
                wrong_sum += wrong
            unseen.clear()
            lengths.clear()
        paused = time.perf_counter()
        on_window(stop)
        pauses += time.perf_counter() - paused
    seconds = time.perf_counter() - started - pauses
    result.train_seconds += seconds
    steps = end - begin
    examples = steps * loop.batch
    return {
        "train/loss": loss_sum / steps,
        "train/error": wrong_sum / examples,
        "examples_per_second": examples / seconds,
    }


def _evaluate(loop: Loop, splits: Splits, epoch: int, result: FitResult, train: dict[str, float]) -> Evaluation:
    val_loss, val_error = evaluate(loop.model, splits.val, world=loop.world)
    metrics = train | {
        "val/loss": val_loss,
        "val/error": val_error,
        "lr": loop.optimizer.param_groups[0]["lr"],
        "grad_norm": loop.grad_norm(),
        "optimizer_steps": result.steps,
        "examples": result.steps * loop.batch,
    }
    return Evaluation(epoch, result.steps, metrics)


def _measure_noise(
    loop: Loop, splits: Splits, sample: NoiseSample, epoch: int, from_end: int, seed: int
) -> dict[str, float]:
    """The noise scale's metrics at this evaluation: on a sample where one is due, and from accumulation."""
    metrics: dict[str, float] = {}
    if sample.is_due(epoch, from_end):
        metrics |= sample.measure(loop.model, splits.train, seed).metrics("noise_scale")
    if (accumulated := loop.noise.drain()) is not None:
        metrics |= accumulated.metrics("noise_scale_accumulated")
    return metrics
