"""The data of several replicates that train at once: each has its own split, order and augmentation."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pipeline.data.augment import crop_and_flip
from pipeline.data.splits import InMemorySplit
from pipeline.data.stream import Slice


class StackedSplit:
    """The same part, of the same length, of each replicate's data set; batches of all are gathered at once.

    Args:
        splits: one for each replicate. Where they hold the same images, these are held once.
        seeds: of the replicates, for their augmentation.
    """

    def __init__(self, splits: Sequence[InMemorySplit], seeds: Sequence[int]) -> None:
        first = splits[0]
        self._seeds = seeds
        self._augmented = first.augmented
        rows = [
            torch.arange(len(split), device=split.index_device) if split.rows is None else split.rows
            for split in splits
        ]
        if all(split.images is first.images for split in splits):
            self._images, self._labels = first.images, first.labels
        else:
            self._images = torch.cat([split.images for split in splits])
            self._labels = torch.cat([split.labels for split in splits])
            starts = torch.tensor([0, *(len(split.images) for split in splits[:-1])]).cumsum(0).tolist()
            rows = [start + of_split for start, of_split in zip(starts, rows, strict=True)]
        self._rows = torch.stack(rows)  # [K, n]
        self._mean = self._std = None
        if first.mean is not None:
            self._mean, self._std = (
                torch.stack([getattr(split, name) for split in splits])[:, None] for name in ("mean", "std")
            )

    def __len__(self) -> int:
        return self._rows.shape[1]

    @property
    def index_device(self) -> torch.device:
        """The device of the images."""
        return self._labels.device

    def batches(self, slices: Iterable[Slice], augment: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images [K, n, C, H, W] float32, labels [K, n]) for each slice, whose indices are [K, n] or [n]."""
        for indices, first in slices:
            indices = indices.to(self.index_device, non_blocking=True)
            shape = len(self._rows), indices.shape[-1]
            rows = self._rows.gather(1, indices.expand(shape)).flatten()
            images = self._images.index_select(0, rows).unflatten(0, shape)
            if self._augmented and augment:
                cropped = zip(images, self._seeds, strict=True)
                images = torch.stack([crop_and_flip(own, first, seed) for own, seed in cropped])
            if self._mean is not None and self._std is not None:
                images = images.float().sub_(self._mean).div_(self._std)
            yield images, self._labels.index_select(0, rows).unflatten(0, shape)
