"""Several processes that form each batch together: which examples are whose, and what they tell each other.

The gradient is averaged over all examples of the batch, also where the shares are unequal: each worker divides the
sum of its examples' losses by the whole batch, and the workers' gradients are added (Goyal et al. 2017,
arXiv:1706.02677, section 2.3, remark 3). There is one shuffle, shared by all (the same, remark 4).

Rank and count come from `pipeline.run.worker`, which starts the processes, or from torchrun.
"""

import contextlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import RequestError


@dataclass(frozen=True)
class World:
    """This process's place among the `count` that train one model: `rank` 0 is the one that tracks.

    With a `count` above 1 torch's process group must be there, and every worker must make the same calls in the same
    order. All of them are told the same, so that what they decide by it is the same too.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this one speaks for all."""
        return self.rank == 0

    def shard(self, examples: int) -> tuple[int, int]:
        """This worker's part [start, stop) of `examples`: as equal as can be, in the order of the ranks."""
        each, more = divmod(examples, self.size)
        start = self.rank * each + min(self.rank, more)
        return start, start + each + (self.rank < more)

    def passes_per_rank(self, batch: int, micro_batch: int | None) -> list[int]:
        """How many forward passes of at most `micro_batch` examples each worker makes of its share of a batch."""
        shares = [stop - start for start, stop in (World(rank, self.size).shard(batch) for rank in self.ranks)]
        return [-(-share // (micro_batch or batch)) for share in shares]

    @property
    def ranks(self) -> range:
        """All of them."""
        return range(self.size)

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Each of `values` summed over the workers."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Every worker's `tensor`, which has the same shape in all of them."""
        if self.size == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in self.ranks]
        dist.all_gather(gathered, tensor.contiguous())
        return gathered

    def broadcast(self, value: Any) -> Any:
        """What the first worker's `value` is."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


SINGLE_PROCESS = World()


class SharedModel:
    """Forward and backward passes of one model by several workers; by one, just the model's own.

    Args:
        model: on its device.
        workers: who train it together.
        compiled: whether passes go through `torch.compile`.
        has_unused: whether some parameters get no gradient; to find them costs each step a walk through its graph.

    Attributes:
        forward: gives the logits; a backward pass from them adds the workers' gradients to `.grad`.
    """

    def __init__(self, model: nn.Module, world: World, compiled: bool = False, has_unused: bool = False) -> None:
        self._world = world
        self._parallel: DistributedDataParallel | None = None
        self._statistics = BatchStatistics(model, world) if world.size > 1 else None
        # Training's passes alone: evaluations are few, and per-example gradients need the model as it is.
        self.forward: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
        if world.size > 1:
            # Buffers are shared by `BatchStatistics`: to copy the first worker's would drop what the others saw.
            new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.14
            buffers: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
            self._parallel = DistributedDataParallel(
                self.forward, gradient_as_bucket_view=True, find_unused_parameters=has_unused, **buffers
            )
            self.forward = self._parallel

    def scale(self, examples: int, batch: int) -> float:
        """Factor on the mean loss of `examples`, so that what is in `.grad` in the end is the mean over `batch`.

        DistributedDataParallel averages over the workers, hence their number.
        """
        return examples / batch * self._world.size

    def keeping_to_itself(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """For the forward and backward pass of a micro-batch: gradients are sent after the last one only."""
        return contextlib.nullcontext() if is_last or self._parallel is None else self._parallel.no_sync()

    def begin_step(self) -> None:
        """To be called before a step's first forward pass."""
        if self._statistics is not None:
            self._statistics.remember()

    def end_step(self, passes: Sequence[int]) -> None:
        """To be called after a step's last one; `passes` is how many each worker made."""
        if self._statistics is not None:
            self._statistics.combine(passes)


def check_shareable(model: nn.Module) -> None:
    """Refuse a model that several workers can't train as one would.

    Raises:
        RequestError: it keeps an average over all batches, which the workers' own don't add up to.
    """
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.modules.batchnorm._NormBase)
            and module.momentum is None
            and module.track_running_stats
        ):
            raise RequestError(
                f"model: {name or type(module).__name__} has momentum=None, an average over all batches, which"
                " workers can't share."
                "\nGive it a momentum, or use runtime.workers=1."
            )


class BatchStatistics:
    """Batch norm's running averages, as if one process had made all the workers' forward passes, rank after rank.

    Each normalises by the statistics of what it sees itself (Goyal et al. 2017, section 3.1), as gradient accumulation
    does. A forward pass moves a running average from r to (1 − m)r + m·s. So n passes make it (1 − m)ⁿr + c, where c
    depends on the examples alone: every worker's c is told to all, and all put them together in the same order.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._world = world
        self._layers = [
            module
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
        ]
        keeping = [
            torch.full_like(buffer, 1 - layer.momentum)
            for layer in self._layers
            if layer.momentum is not None
            for buffer in _averages(layer)
        ]
        self._keeping = torch.cat(keeping) if keeping else None
        self._before: Tensor | None = None

    def remember(self) -> None:
        """Keep the averages that the step starts from."""
        if self._layers:
            self._before = self._flat()

    def combine(self, passes: Sequence[int]) -> None:
        """Put every worker's passes together."""
        if not self._layers:
            return
        assert self._before is not None
        assert self._keeping is not None
        combined = self._before
        for after, own in zip(self._world.all_gather(self._flat()), passes, strict=True):
            kept = self._keeping**own
            combined = kept * combined + (after - kept * self._before)
        buffers = [buffer for layer in self._layers for buffer in _averages(layer)]
        for buffer, value in zip(buffers, combined.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(value)
        for layer in self._layers:
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked += sum(passes) - passes[self._world.rank]

    def _flat(self) -> Tensor:
        return torch.cat([buffer for layer in self._layers for buffer in _averages(layer)])


def _averages(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.running_mean, layer.running_var
