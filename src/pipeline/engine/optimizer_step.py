"""The optimizer's steps: kept apart from when to look at what they did."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.distributed.world import SharedModel, World
from pipeline.engine.metric_accumulator import MetricAccumulator
from pipeline.engine.noise_scale import MicroBatchNoise
from pipeline.engine.optimizer_calls import clear_function, step_function
from pipeline.engine.precision import Precision


@dataclass
class Loop:
    """One optimizer step after another, and what they leave to be looked at.

    Attributes:
        model, optimizer: what is trained; the LRs in the optimizer's groups are the peak ones.
        batch: examples in one step, over all workers.
        micro_batch: most examples in one forward pass; None is all.
        precision: of forward passes.
        workers: this process's place among those that take the steps together.
        noise: watches the gradients of micro-batches.
        compiled: whether passes go through `torch.compile`.
        has_unused: whether some parameters get no gradient; counts where there are several workers.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: int
    micro_batch: int | None
    precision: Precision
    world: World
    noise: MicroBatchNoise
    compiled: bool = False
    has_unused: bool = False
    tally: MetricAccumulator = field(
        default_factory=MetricAccumulator
    )  # of losses that are multiplied with the pass's share of the batch

    def __post_init__(self) -> None:
        self._update = step_function(self.optimizer, self.compiled)
        self._clear_gradients = clear_function(self.optimizer)
        self._peak_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._shared = SharedModel(self.model, self.world, self.compiled, self.has_unused)
        self._passes = self.world.passes_per_rank(self.batch, self.micro_batch)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    def step(self, batches: Iterator[tuple[Tensor, Tensor]], factor: float) -> None:
        for group, lr in zip(self.optimizer.param_groups, self._peak_lrs, strict=True):
            group["lr"] = lr * factor
        self._clear_gradients()
        self._shared.begin_step()
        own = self._passes[self.world.rank]
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
            self.tally.add(loss, logits, labels)
            del images, labels, logits, loss  # before the next pass takes memory
        self._shared.end_step(self._passes)
        self._update()

    def drain(self) -> Tensor:
        """(sum of the batches' losses, number of wrong answers) since the last drain, by this worker, on the device."""
        loss, wrong = self.tally.drain()
        return torch.stack((loss / self.world.size, wrong))

    def look(self, drained: list[Tensor]) -> list[tuple[float, float]]:
        """What was drained, over all workers, as numbers; waits for the device, once."""
        flat = self.world.all_reduce_sum(torch.stack(drained).flatten().tolist())
        return list(zip(flat[::2], flat[1::2], strict=True))

    def grad_norm(self) -> float:
        """Euclidean norm of the last step's gradient over all parameters."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item()
