"""The order of examples: one endless stream that follows from the seed alone."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Slice(NamedTuple):
    """A piece of the stream: the `indices` of its examples, and the stream position of its `first` one."""

    indices: Tensor
    first: int


class ExampleStream:
    """Shuffled passes over the examples, end to end: position p lies in epoch p // examples.

    Each epoch's shuffle follows from (seed, epoch), so runs that differ in LR or batch size see the same
    stream, and a batch that crosses the end of an epoch loses no example.

    Args:
        examples: how many there are.
        seed: decides the order.
        device: where the indices are to lie; each epoch's are brought there at once.
    """

    def __init__(self, examples: int, seed: int, device: torch.device | None = None) -> None:
        self.examples = examples
        self.seed = seed
        self.device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def take(self, start: int, stop: int) -> Tensor:
        """Indices of the examples at stream positions start … stop − 1; int64, shape [stop − start]."""
        pieces = []
        while start < stop:
            epoch, offset = divmod(start, self.examples)
            length = min(stop - start, self.examples - offset)
            pieces.append(self._shuffled(epoch)[offset : offset + length])
            start += length
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def slices(
        self,
        batch: int,
        steps: int,
        micro_batch: int | None = None,
        done: int = 0,
        share: tuple[int, int] | None = None,
    ) -> Iterator[Slice]:
        """The batches of a run in order after `done` steps, each cut into pieces of at most `micro_batch` examples.

        `share` is the part [start, stop) of each batch that is wanted; None is all of it.
        """
        piece = min(batch, micro_batch or batch)
        first, last = share or (0, batch)
        for step in range(done, steps):
            end = step * batch + last
            for start in range(step * batch + first, end, piece):
                yield Slice(self.take(start, min(start + piece, end)), start)

    def _shuffled(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
            # Drawn on the CPU, whose generator gives the same on every machine.
            self._order = torch.randperm(self.examples, generator=generator).to(self.device or "cpu")
            self._epoch = epoch
        return self._order


def in_order(examples: int, piece: int, first: int = 0, device: torch.device | None = None) -> Iterator[Slice]:
    """Examples `first` … `examples` − 1 once, unshuffled, in pieces of at most `piece`: for evaluation."""
    for start in range(first, examples, piece):
        yield Slice(torch.arange(start, min(start + piece, examples), device=device or "cpu"), start)


def derive_seed(purpose: str, *numbers: int) -> int:
    """A 63-bit seed from a purpose and numbers, so that two uses of one seed never share a random stream."""
    digest = hashlib.sha256(repr((purpose, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
