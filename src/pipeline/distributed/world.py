"""The processes that train one model: which examples are whose, and how values are exchanged.

Rank and world size come from `pipeline.run.worker`, which starts the processes, or from torchrun.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process's rank among the `size` processes that train one model; rank 0 tracks and decides.

    With a `size` above 1, torch's process group must exist, and all ranks must make the same calls in the same order.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def shard(self, examples: int) -> tuple[int, int]:
        """Return this rank's part [start, stop) of `examples`; sizes differ by one at most."""
        each, more = divmod(examples, self.size)
        start = self.rank * each + min(self.rank, more)
        return start, start + each + (self.rank < more)

    def passes_per_rank(self, batch: int, micro_batch: int | None) -> list[int]:
        """Return how many forward passes of at most `micro_batch` examples each rank makes of its shard of a batch."""
        shards = (World(rank, self.size).shard(batch) for rank in range(self.size))
        return [-(-(stop - start) // (micro_batch or batch)) for start, stop in shards]

    def smallest_pass(self, examples: int, most: int) -> int:
        """Return the fewest examples in a forward pass of any rank, each of which passes at most `most` at once."""
        shards = (World(rank, self.size).shard(examples) for rank in range(self.size))
        return min((stop - start) % most or most for start, stop in shards if start < stop)

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return each of `values` summed over the ranks."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return every rank's `tensor`, which has the same shape in all of them."""
        if self.size == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(gathered, tensor.contiguous())
        return gathered

    def broadcast(self, value: Any) -> Any:
        """Return the `value` of rank 0."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


SINGLE_PROCESS = World()
