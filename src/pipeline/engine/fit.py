"""The training loop: steps, evaluations, and the end of a run."""

import functools
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pipeline.data.splits import Splits
from pipeline.data.stream import ExampleStream
from pipeline.distributed.world import SINGLE_PROCESS, World
from pipeline.engine.evaluate import evaluate_run
from pipeline.engine.model_traits import FEW_EXAMPLES, has_unused_parameters
from pipeline.engine.noise_scale import MicroBatchNoise, NoiseSample
from pipeline.engine.optimizer_step import Stepper
from pipeline.engine.runtime import FP32, Precision
from pipeline.engine.state import State, random_states, restore, state_of
from pipeline.engine.stopping import DivergenceMonitor, Evaluation, FitResult, status_after, status_at_end
from pipeline.recipe.budget import TrainingPlan
from pipeline.recipe.schedule import LRFactor

# How often an epoch's loss is checked for divergence: often enough to save time, seldom enough that a window at batch 4
# averages over fifty examples of the digits.
WINDOWS_PER_EPOCH = 20
# Several processes check together, and each check waits for the slowest. So they check each window of the first steps,
# in which most runs that diverge do so, and then once in so many steps. (Not seconds: all must check at the same step.)
STEPS_BETWEEN_CHECKS = 16


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
    noise_sample: NoiseSample | None = None,
    on_evaluation: Callable[[Evaluation], None] = lambda evaluation: None,
    on_state: Callable[[Evaluation, Callable[[], State]], None] = lambda evaluation, state: None,
    on_window: Callable[[int], None] = lambda step: None,
    should_prune: Callable[[Evaluation], bool] = lambda evaluation: False,
    resume_from: State | None = None,
    precision: Precision = FP32,
    compiled: bool = False,
    world: World = SINGLE_PROCESS,
) -> FitResult:
    """Train `model` on `splits.train` with the mean cross-entropy, and evaluate it on `splits.val`.

    The gradient of a step is that of the mean over all `batch` examples, for any micro-batch and world size.

    Args:
        model, optimizer: on the same device as `splits`; the optimizer's groups hold the peak LRs.
        plan, schedule: how many steps, when to evaluate, and the factor on the LR at each step.
        batch: examples in one optimizer step.
        seed: decides the order of examples and their augmentation.
        micro_batch: most examples in one forward pass; None is the whole batch.
        noise_sample: when to measure the noise scale on a sample, which doesn't change the run; never by default.
        on_evaluation: called with each evaluation.
        on_state: called before `on_evaluation`, with the evaluation and a function that returns the run's state.
        on_window: called with the number of steps done, about twenty times an epoch.
        should_prune: asked after each evaluation whether to end the run.
        resume_from: a state of a run of the same request. The remaining steps are taken; on a CPU the result is that
            of an uninterrupted run bit for bit.
        precision, compiled: of training's forward passes; `torch.compile` changes rounding only.
        world: the processes that train `model` together. All call this function with equal arguments and get equal
            results; `resume_from` and the callbacks matter in rank 0 only.
    """
    resume_from = world.broadcast(resume_from)
    noise = MicroBatchNoise(model, batch, micro_batch, world, plan.total_steps / len(plan.evaluation_steps))
    # Layers may be skipped at random, differently in each rank: if one rank finds unused parameters, all look for them.
    few = min(FEW_EXAMPLES, world.smallest_pass(batch, micro_batch or batch))
    has_unused = world.size > 1 and world.all_reduce_sum([has_unused_parameters(model, splits.train, few)])[0] > 0
    stepper = Stepper(model, optimizer, batch, micro_batch, precision, world, noise, compiled, has_unused)
    monitor = DivergenceMonitor(splits.guess_loss)
    result = FitResult()
    if resume_from is not None:
        restore(resume_from, stepper, monitor, result)
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
                continue  # done before the run was interrupted
            train = _train_until(end, stepper, batches, schedule, result, window, monitor, on_window)
            if train is None:
                result.status = "diverged"
                return result
            evaluation = evaluate_run(stepper, splits, epoch, result.steps, train)
            status = status_after(evaluation, monitor, plan)
            if status != "diverged":
                from_end = -1 if status else epoch - len(plan.evaluation_steps) - 1
                if noise_sample and world.is_main and not {epoch, from_end}.isdisjoint(noise_sample.epochs):
                    evaluation.metrics.update(noise_sample.measure(model, splits.train, seed).metrics("noise_scale"))
                if (accumulated := noise.pop_estimate()) is not None:
                    evaluation.metrics.update(accumulated.metrics("noise_scale_accumulated"))
            result.evaluations.append(evaluation)
            random = random_states(stepper)
            if world.is_main:
                on_state(evaluation, functools.partial(state_of, stepper, monitor, result, status, random))
                on_evaluation(evaluation)
            if status is None and world.broadcast(world.is_main and should_prune(evaluation)):
                status = "pruned"
            if status is not None:
                result.status = status
                return result
    result.status = status_at_end(result.evaluations[-1], monitor, plan)
    return result


def _should_check(stepper: Stepper, step: int, unchecked_steps: int) -> bool:
    """Return whether to check for divergence after `step` steps of the run, before the next evaluation."""
    if stepper.device.type != "cpu":
        return False  # the host runs ahead of a GPU, and reading a result would wait for it
    return stepper.world.size == 1 or step <= STEPS_BETWEEN_CHECKS or unchecked_steps >= STEPS_BETWEEN_CHECKS


def _train_until(
    end: int,
    stepper: Stepper,
    batches: Iterator[tuple[Tensor, Tensor]],
    schedule: LRFactor,
    result: FitResult,
    window: int,
    monitor: DivergenceMonitor,
    on_window: Callable[[int], None],
) -> dict[str, float] | None:
    """Train until `end` steps are done; return training's metrics, or None if the run diverged.

    Divergence is judged by each window's mean loss: at once in one process on a CPU, at the end on a GPU, and once in
    `STEPS_BETWEEN_CHECKS` steps with several processes.
    """
    begin, loss_sum, wrong_sum = result.steps, 0.0, 0.0
    unchecked: list[Tensor] = []
    lengths: list[int] = []
    started, pauses = time.perf_counter(), 0.0
    while result.steps < end:
        # The first window is one step long: its loss is the start that divergence is measured against.
        stop = min(result.steps + window, end) if result.steps else 1
        for step in range(result.steps, stop):
            stepper.step(batches, schedule(step))
        unchecked.append(stepper.pop_sums())
        lengths.append(stop - result.steps)
        result.steps = stop
        if stop == end or _should_check(stepper, stop, sum(lengths)):
            for (loss, wrong), steps in zip(stepper.to_host(unchecked), lengths, strict=True):
                if monitor.diverged(loss / steps):
                    return None
                loss_sum += loss
                wrong_sum += wrong
            unchecked.clear()
            lengths.clear()
        paused = time.perf_counter()
        on_window(stop)
        pauses += time.perf_counter() - paused
    seconds = time.perf_counter() - started - pauses
    result.train_seconds += seconds
    steps = end - begin
    examples = steps * stepper.batch
    return {
        "train/loss": loss_sum / steps,
        "train/error": wrong_sum / examples,
        "examples_per_second": examples / seconds,
    }
