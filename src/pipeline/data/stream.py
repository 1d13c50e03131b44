"""The order in which a run sees the examples: an endless stream that depends on the seed alone."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Slice(NamedTuple):
    """A part of the stream: the `indices` of its examples, and the stream position of the `first` one."""

    indices: Tensor
    first: int


class ExampleStream:
    """Shuffled passes over the examples, one after the other: position p is in epoch p // examples.

    Each epoch's order depends on (seed, epoch). Runs that differ in LR or batch size therefore see the same stream,
    and a batch that crosses the end of an epoch loses no example. An epoch's indices are put on `device` at once.

    With several seeds, the indices of each are a row.
    """

    def __init__(self, examples: int, seed: int | Sequence[int], device: torch.device | None = None) -> None:
        self.examples = examples
        self.seed = seed
        self.device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def take(self, start: int, stop: int) -> Tensor:
        """Return the indices at stream positions start … stop − 1; int64, [stop − start] or [seeds, stop − start]."""
        pieces = []
        while start < stop:
            epoch, offset = divmod(start, self.examples)
            if epoch != self._epoch:
                self._order = self._draw_order(epoch).to(self.device or "cpu")
                self._epoch = epoch
            length = min(stop - start, self.examples - offset)
            pieces.append(self._order[..., offset : offset + length])
            start += length
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def _draw_order(self, epoch: int) -> Tensor:
        # Drawn on the CPU, whose generator gives the same numbers on every machine.
        def of_one(seed: int) -> Tensor:
            generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
            return torch.randperm(self.examples, generator=generator)

        return of_one(self.seed) if isinstance(self.seed, int) else torch.stack([of_one(seed) for seed in self.seed])

    def slices(
        self,
        batch: int,
        steps: int,
        micro_batch: int | None = None,
        done: int = 0,
        shard: tuple[int, int] | None = None,
    ) -> Iterator[Slice]:
        """Yield a run's batches in order, each cut into slices of at most `micro_batch` examples.

        Args:
            batch, steps: examples in one optimizer step, and steps of the whole run.
            micro_batch: most examples in a slice; None is the whole batch.
            done: steps that a resumed run has taken already.
            shard: the part [start, stop) of each batch that this process trains on; None is all of it.
        """
        start, stop = shard or (0, batch)
        piece = micro_batch or batch
        for step in range(done, steps):
            end = step * batch + stop
            for first in range(step * batch + start, end, piece):
                yield Slice(self.take(first, min(first + piece, end)), first)


def in_order(examples: int, piece: int, first: int = 0, device: torch.device | None = None) -> Iterator[Slice]:
    """Yield examples `first` … `examples` − 1 once, unshuffled, in slices of at most `piece`: for evaluation."""
    for start in range(first, examples, piece):
        yield Slice(torch.arange(start, min(start + piece, examples), device=device or "cpu"), start)


def derive_seed(purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed for a purpose and numbers, so that no two uses of one seed share a random stream."""
    digest = hashlib.sha256(repr((purpose, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
