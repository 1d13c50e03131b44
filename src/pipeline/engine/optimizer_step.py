"""One optimizer step: forward and backward passes over micro-batches, then the update."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.distributed.data_parallel import BatchNormStatistics, data_parallel
from pipeline.distributed.world import World
from pipeline.engine.metric_accumulator import MetricAccumulator
from pipeline.engine.noise_scale import MicroBatchNoise
from pipeline.engine.optimizer_calls import clear_function, step_function
from pipeline.engine.runtime import Precision


@dataclass
class Stepper:
    """Takes optimizer steps, and sums their losses and wrong answers on the device."""

    model: nn.Module
    optimizer: torch.optim.Optimizer  # its groups hold the peak LRs
    batch: int  # examples in one step, over all ranks
    micro_batch: int | None  # most examples in one forward pass; None is the whole shard
    precision: Precision
    world: World
    noise: MicroBatchNoise
    compiled: bool  # whether passes go through `torch.compile`
    has_unused_parameters: bool  # whether some get no gradient; matters with several processes only

    def __post_init__(self) -> None:
        self._update = step_function(self.optimizer, self.compiled)
        self._clear_gradients = clear_function(self.optimizer)
        self._peak_lrs = [group["lr"] for group in self.optimizer.param_groups]
        # Not `model` itself: evaluations are few, and per-example gradients need the model uncompiled.
        self._forward = data_parallel(self.model, self.world, self.compiled, self.has_unused_parameters)
        self._statistics = BatchNormStatistics(self.model, self.world)
        self._passes = self.world.passes_per_rank(self.batch, self.micro_batch)
        self._metrics = MetricAccumulator()

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    def step(self, batches: Iterator[tuple[Tensor, Tensor]], lr_factor: float) -> None:
        """Take one optimizer step on the next micro-batches, at `lr_factor` times the peak LR."""
        for group, lr in zip(self.optimizer.param_groups, self._peak_lrs, strict=True):
            group["lr"] = lr * lr_factor
        self._clear_gradients()
        self._statistics.remember()
        passes = self._passes[self.world.rank]
        for number in range(1, passes + 1):
            images, labels = next(batches)
            sync: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
            if number < passes and isinstance(self._forward, DistributedDataParallel):
                sync = self._forward.no_sync()  # gradients are exchanged after the step's last pass only
            with sync:
                with self.precision.context():
                    logits = self._forward(images)
                loss = F.cross_entropy(logits.float(), labels)
                # The gradient is that of the batch's mean loss, also if micro-batches differ in size; gradients are
                # averaged over the ranks, hence the world size.
                if (factor := len(labels) / self.batch * self.world.size) != 1:
                    loss = loss * factor
                loss.backward()
            self.noise.after_backward(len(labels))
            self._metrics.add(loss, logits, labels)
            del images, labels, logits, loss  # frees memory before the next pass
        self._statistics.combine(self._passes)
        self._update()

    def pop_sums(self) -> Tensor:
        """Return (sum of mean losses / world size, wrong answers) of this rank since the last call, on the device."""
        loss, wrong = self._metrics.pop_sums()
        return torch.stack((loss / self.world.size, wrong))

    def to_host(self, sums: list[Tensor]) -> list[tuple[float, float]]:
        """Return results of `pop_sums` as numbers, summed over all ranks; waits for the device once."""
        flat = self.world.all_reduce_sum(torch.stack(sums).flatten().tolist())
        return list(zip(flat[::2], flat[1::2], strict=True))

    def grad_norm(self) -> float:
        """Return the Euclidean norm of the last step's gradient over all parameters."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item()
