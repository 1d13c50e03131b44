"""The training loop."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.budget import TrainingPlan
from pipeline.data.splits import Splits
from pipeline.data.stream import ExampleStream
from pipeline.engine.eager import step_function
from pipeline.engine.evaluate import evaluate
from pipeline.engine.health import Health
from pipeline.engine.noise_scale import NEVER, MicroBatchNoise, NoiseSample
from pipeline.engine.precision import FULL, Precision
from pipeline.engine.workers import ALONE, SharedModel, Workers
from pipeline.schedule import Schedule

# How often an epoch's loss is looked at for divergence: often enough to save time, seldom enough that a GPU
# doesn't wait for the host, and that a window at batch 4 averages over fifty examples of the digits.
WINDOWS_PER_EPOCH = 20


# What a run can be gone on with from: plain containers and tensors, which `torch.load(weights_only=True)` takes.
State = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What was measured at one evaluation point: `step` optimizer steps done, the `epoch`-th evaluation."""

    epoch: int
    step: int
    metrics: dict[str, float]


@dataclass
class FitResult:
    """How a run ended.

    Attributes:
        status: `complete`, `diverged`, `stalled`, `missed` (a target that wasn't reached) or `pruned`.
        steps: optimizer steps that were taken.
        evaluations: in order; a diverged run has none after it diverged.
        train_seconds: time in training alone, without evaluation.
    """

    status: str
    steps: int
    evaluations: list[Evaluation] = field(default_factory=list)
    train_seconds: float = 0.0

    @property
    def has_test(self) -> bool:
        """Whether its network is worth a look at the test split."""
        return self.status not in ("diverged", "pruned")


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    splits: Splits,
    plan: TrainingPlan,
    schedule: Schedule,
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
    workers: Workers = ALONE,
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
        workers: this process's place among those that train `model` together. All call this function with equal
            arguments, and get equal results; what is called back, and `resume_from`, counts in the first alone.
    """
    if workers.count > 1:
        resume_from = workers.told(resume_from)
        if not workers.is_first:
            noise_sample = NEVER
    noise = MicroBatchNoise(model, batch, micro_batch, workers)
    loop = _Loop(model, optimizer, batch, micro_batch, precision, workers, noise)
    health = Health(splits.guess_loss)
    result = FitResult("complete", 0)
    if resume_from is not None:
        _restore(resume_from, loop, health, result)
        if resume_from["over"] is not None:
            result.status = resume_from["over"]
            return result
    slices = ExampleStream(len(splits.train), seed).slices(
        *(batch, plan.total_steps, micro_batch, result.steps), share=workers.share(batch)
    )
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
            random = workers.gather(torch.get_rng_state())
            if workers.is_first:
                on_state(evaluation, functools.partial(_state, loop, health, result, over, random))
                on_evaluation(evaluation)
            if diverged:
                result.status = "diverged"
                return result
            if reached:
                return result
            if workers.told(workers.is_first and should_prune(evaluation)):
                result.status = "pruned"
                return result
    if health.stalled(result.evaluations[-1].metrics["train/loss"]):
        result.status = "stalled"
    elif plan.target:
        result.status = "missed"
    return result


def _state(loop: "_Loop", health: Health, result: FitResult, over: str | None, random: list[Tensor]) -> State:
    last = result.evaluations[-1]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "model": loop.model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "epoch": last.epoch,
        "step": last.step,
        "metrics": last.metrics,
        "evaluations": [asdict(evaluation) for evaluation in result.evaluations],
        "train_seconds": result.train_seconds,
        "health": asdict(health),
        "over": over,  # how the run has ended, where it ends here
        "random": [*random, *cuda],  # what dropout and the like draw from, of each worker, and on GPUs
        "workers": len(random),
    }


def _restore(state: State, loop: "_Loop", health: Health, result: FitResult) -> None:
    loop.model.load_state_dict(state["model"])
    loop.optimizer.load_state_dict(state["optimizer"])
    result.steps, result.train_seconds = state["step"], state["train_seconds"]
    result.evaluations += [Evaluation(**evaluation) for evaluation in state["evaluations"]]
    health.start_loss, health.peak_loss = state["health"]["start_loss"], state["health"]["peak_loss"]
    count = state["workers"]
    if count == loop.workers.count:
        torch.set_rng_state(state["random"][loop.workers.rank])
    if state["random"][count:]:
        torch.cuda.set_rng_state_all(state["random"][count:])


@dataclass
class _Loop:
    """One optimizer step and what it accumulates: kept apart from when to look at it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: int
    micro_batch: int | None
    precision: Precision
    workers: Workers
    noise: MicroBatchNoise
    losses: list[Tensor] = field(default_factory=list)  # of each forward pass, times its share of the batch
    outputs: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._update = step_function(self.optimizer)
        self._peak_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._shared = SharedModel(self.model, self.workers)
        self._passes = self.workers.passes(self.batch, self.micro_batch)

    def step(self, batches: Iterator[tuple[Tensor, Tensor]], factor: float) -> None:
        for group, lr in zip(self.optimizer.param_groups, self._peak_lrs, strict=True):
            group["lr"] = lr * factor
        self.optimizer.zero_grad(set_to_none=True)
        self._shared.begin_step()
        own = self._passes[self.workers.rank]
        for number in range(1, own + 1):
            images, labels = next(batches)
            with self._shared.keeping_to_itself(is_last=number == own):
                with self.precision.context():
                    logits = self._shared.forward(images)
                loss = F.cross_entropy(logits.float(), labels)
                if (scale := self._shared.scale(len(labels), self.batch)) != 1:
                    # The mean over the whole batch, also where the last piece is smaller than the others.
                    loss = loss * scale
                loss.backward()
            self.noise.after_backward(len(labels))
            self.losses.append(loss.detach())
            self.outputs.append(logits.detach())
            self.labels.append(labels)
        self._shared.end_step(self._passes)
        self._update()

    def drain(self) -> tuple[float, float]:
        """Sum of the batches' losses and number of wrong answers since the last drain; waits for the device."""
        loss = torch.stack(self.losses).sum()
        wrong = (torch.cat(self.outputs).argmax(dim=1) != torch.cat(self.labels)).sum()
        self.losses.clear()
        self.outputs.clear()
        self.labels.clear()
        loss_sum, wrong_sum = self.workers.total([loss.item() / self.workers.count, wrong.item()])
        return loss_sum, int(wrong_sum)

    def grad_norm(self) -> float:
        """Euclidean norm of the last step's gradient over all parameters."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item()


def _train_until(
    loop: _Loop,
    batches: Iterator[tuple[Tensor, Tensor]],
    schedule: Schedule,
    result: FitResult,
    end: int,
    window: int,
    health: Health,
    on_window: Callable[[int], None],
) -> dict[str, float] | None:
    """Take steps until `end` are done; mean loss and error of their batches, or None if the run diverged."""
    begin, loss_sum, wrong_sum, seconds = result.steps, 0.0, 0.0, 0.0
    while result.steps < end:
        # The first window is one step long: its loss is the start that divergence is measured against.
        stop = min(result.steps + window, end) if result.steps else 1
        steps = stop - result.steps
        started = time.perf_counter()
        for step in range(result.steps, stop):
            loop.step(batches, schedule(step))
        loss, wrong = loop.drain()
        seconds += time.perf_counter() - started
        result.steps = stop
        if stop == 1:
            health.start(loss)
        if health.diverged(loss / steps):
            return None
        loss_sum += loss
        wrong_sum += wrong
        on_window(stop)
    result.train_seconds += seconds
    steps = end - begin
    examples = steps * loop.batch
    return {
        "train/loss": loss_sum / steps,
        "train/error": wrong_sum / examples,
        "examples_per_second": examples / seconds,
    }


def _evaluate(loop: _Loop, splits: Splits, epoch: int, result: FitResult, train: dict[str, float]) -> Evaluation:
    val_loss, val_error = evaluate(loop.model, splits.val, workers=loop.workers)
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
    loop: _Loop, splits: Splits, sample: NoiseSample, epoch: int, from_end: int, seed: int
) -> dict[str, float]:
    """The noise scale's metrics at this evaluation: on a sample where one is due, and from accumulation."""
    metrics: dict[str, float] = {}
    if sample.is_due(epoch, from_end):
        metrics |= sample.measure(loop.model, splits.train, seed).metrics("noise_scale")
    if (accumulated := loop.noise.drain()) is not None:
        metrics |= accumulated.metrics("noise_scale_accumulated")
    return metrics
