"""Data-parallel training of one model: gradients by DistributedDataParallel, running averages of batch norm here.

The gradient is the mean over all examples of the batch, also with shards of different sizes: each rank divides the sum
of its examples' losses by the whole batch, and the ranks' gradients are added (Goyal et al. 2017, arXiv:1706.02677,
section 2.3, remark 3). All ranks share one shuffle (the same, remark 4).
"""

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from pipeline.distributed.world import World
from pipeline.errors import RequestError


class DataParallelModel:
    """Forward and backward passes of one model in all ranks; with one process, just the model's own.

    Args:
        model: on its device.
        world: the processes that train it.
        compiled: whether training passes go through `torch.compile`.
        has_unused_parameters: whether some parameters get no gradient; finding them walks each step's graph.

    Attributes:
        forward: gives the logits; a backward pass from them adds all ranks' gradients to `.grad`.
    """

    def __init__(
        self, model: nn.Module, world: World, compiled: bool = False, has_unused_parameters: bool = False
    ) -> None:
        self._world = world
        self._parallel: DistributedDataParallel | None = None
        self._statistics = BatchNormStatistics(model, world)
        # Not the model itself: evaluations are few, and per-example gradients need the model uncompiled.
        self.forward: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
        if world.size > 1:
            # `BatchNormStatistics` combines buffers; a copy of rank 0's would drop what the others saw.
            new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.14
            buffers: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
            self._parallel = DistributedDataParallel(
                self.forward, gradient_as_bucket_view=True, find_unused_parameters=has_unused_parameters, **buffers
            )
            self.forward = self._parallel

    def loss_factor(self, examples: int, batch: int) -> float:
        """Return the factor on the mean loss of `examples` that makes the final `.grad` the mean over `batch`.

        DistributedDataParallel averages over the ranks, hence the world size.
        """
        return examples / batch * self._world.size

    def gradient_sync(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context for a micro-batch's passes: gradients are exchanged after the step's last one only."""
        return contextlib.nullcontext() if is_last or self._parallel is None else self._parallel.no_sync()

    def begin_step(self) -> None:
        """Prepare a step; call it before the first forward pass."""
        self._statistics.remember()

    def end_step(self, passes: Sequence[int]) -> None:
        """Finish a step; `passes` is the number of forward passes of each rank."""
        self._statistics.combine(passes)


def check_shareable(model: nn.Module) -> None:
    """Refuse a model that several ranks can't train as one process would.

    Raises:
        RequestError: batch norm keeps an average over all batches, which the ranks' own averages don't add up to.
    """
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and module.momentum is None and module.track_running_stats:
            raise RequestError(
                f"model: {name or type(module).__name__} has momentum=None, an average over all batches, which"
                " workers can't share."
                "\nGive it a momentum, or use runtime.workers=1."
            )


class BatchNormStatistics:
    """Batch norm's running averages, as if one process had made all ranks' forward passes in order of rank.

    Each pass normalises by its own statistics (Goyal et al. 2017, section 3.1), as gradient accumulation does. A
    forward pass moves a running average from r to (1 − m)r + m·s. So n passes make it (1 − m)ⁿr + c, where c depends
    on the examples alone. All ranks gather every rank's c, and combine them in the same order.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._world = world
        layers = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
        self._layers = layers if world.size > 1 else []  # one process has nothing to combine
        kept = [
            torch.full_like(average, 1 - layer.momentum)
            for layer in self._layers
            if layer.momentum is not None
            for average in _averages(layer)
        ]
        self._kept_by_one_pass = torch.cat(kept) if kept else torch.empty(0)
        self._before = torch.empty(0)

    def remember(self) -> None:
        """Keep the averages from before the step."""
        if self._layers:
            self._before = self._flat()

    def combine(self, passes: Sequence[int]) -> None:
        """Combine all ranks' passes."""
        if not self._layers:
            return
        combined = self._before
        for after, own in zip(self._world.all_gather(self._flat()), passes, strict=True):
            kept = self._kept_by_one_pass**own
            combined = kept * combined + (after - kept * self._before)
        averages = [average for layer in self._layers for average in _averages(layer)]
        for average, value in zip(averages, combined.split([a.numel() for a in averages]), strict=True):
            average.copy_(value)
        for layer in self._layers:
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked += sum(passes) - passes[self._world.rank]

    def _flat(self) -> Tensor:
        return torch.cat([average for layer in self._layers for average in _averages(layer)])


def _averages(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.running_mean, layer.running_var
