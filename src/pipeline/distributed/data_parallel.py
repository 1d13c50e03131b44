"""Data-parallel training of one model: gradients by DistributedDataParallel, running averages of batch norm here.

The gradient is the mean over all examples of the batch, also with shards of different sizes: each rank divides the sum
of its examples' losses by the whole batch, and the ranks' gradients are added (Goyal et al. 2017, arXiv:1706.02677,
section 2.3, remark 3). All ranks share one shuffle (the same, remark 4).
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.distributed.world import World
from pipeline.errors import RequestError

# torch's batch norms, and all its layers that may keep running averages.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORMS = (*BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def data_parallel(
    model: nn.Module, world: World, compiled: bool, has_unused_parameters: bool
) -> nn.Module | DistributedDataParallel:
    """Return what makes training's forward passes: a backward pass from its logits averages `.grad` over the ranks.

    Args:
        compiled: whether the passes go through `torch.compile`.
        has_unused_parameters: whether some parameters get no gradient; finding them walks each step's graph.
    """
    forward: Any = torch.compile(model) if compiled else model
    if world.size == 1:
        return forward
    # `BatchNormStatistics` combines buffers; a copy of rank 0's would drop what the others saw.
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.14
    buffers: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    return DistributedDataParallel(
        forward, gradient_as_bucket_view=True, find_unused_parameters=has_unused_parameters, **buffers
    )


def check_shareable(model: nn.Module) -> None:
    """Refuse a model that several ranks can't train as one process would.

    Raises:
        RequestError: batch norm keeps an average over all batches, which the ranks' own averages don't add up to.
    """
    for name, module in model.named_modules():
        if isinstance(module, NORMS) and module.momentum is None and module.track_running_stats:
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
        self._layers: list[Any] = []  # one process has nothing to combine
        if world.size > 1:
            self._layers = [m for m in model.modules() if isinstance(m, NORMS) and m.running_mean is not None]
        self._averages: list[Tensor] = [
            average for layer in self._layers for average in (layer.running_mean, layer.running_var)
        ]
        if self._layers:
            kept = [torch.full_like(layer.running_mean, 1 - layer.momentum).repeat(2) for layer in self._layers]
            self._kept_by_one_pass = torch.cat(kept)

    def remember(self) -> None:
        """Keep the averages from before a step."""
        if self._layers:
            self._before = torch.cat(self._averages)

    def combine(self, passes: Sequence[int]) -> None:
        """Combine the step's forward passes; `passes` is their number in each rank."""
        if not self._layers:
            return
        combined = self._before
        for after, own in zip(self._world.all_gather(torch.cat(self._averages)), passes, strict=True):
            kept = self._kept_by_one_pass**own
            combined = kept * combined + (after - kept * self._before)
        sizes = [average.numel() for average in self._averages]
        for average, value in zip(self._averages, combined.split(sizes), strict=True):
            average.copy_(value)
        for layer in self._layers:
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked += sum(passes) - passes[self._world.rank]
