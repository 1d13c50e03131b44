"""What a data set is to the training loop: three splits that yield batches, and how to make them from tensors."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.data.augment import crop_and_flip
from pipeline.data.stream import Slice, derive_seed
from pipeline.errors import RequestError

# Up to this size the images of each part are kept as normalised floats. Above it they stay bytes that all parts,
# and all validation splits of one data set, share; each batch is converted.
FLOAT_LIMIT_BYTES = 16 * 2**20


class Split(Protocol):
    """A part of a data set.

    A split may have the attribute `index_device`. It then gets the indices of its slices on that device.
    """

    def __len__(self) -> int: ...

    def batches(self, slices: Iterable[Slice], augment_seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images [n, C, H, W] float32, labels [n] int64) on the run's device, for each slice.

        With an `augment_seed`, images are augmented if the data set's configuration asks for it.
        """
        ...


@dataclass(frozen=True)
class Splits:
    """A data set."""

    name: str  # what it is called in messages and in MLflow
    train: Split
    val: Split
    test: Split
    classes: int
    digest: str  # first 32 hex digits of a SHA-256 over all its bytes
    guess_loss: float  # in nats, of the best constant guess: the entropy of the training labels
    source: str  # where it came from


@dataclass(frozen=True)
class InMemorySplit:
    """Images and labels that are held on the device; a batch is selected by its indices."""

    images: Tensor  # [N, C, H, W], uint8, or float32 that is already normalised
    labels: Tensor  # [N] int64
    mean: Tensor | None = None  # [C, 1, 1], to normalise bytes; None where `images` are floats
    std: Tensor | None = None
    augmented: bool = False  # whether training batches are cropped and flipped
    rows: Tensor | None = None  # [n] int64, which of the images this part has; None is all

    def __len__(self) -> int:
        return len(self.labels if self.rows is None else self.rows)

    @property
    def index_device(self) -> torch.device:
        """The device of the images."""
        return self.labels.device

    def batches(self, slices: Iterable[Slice], augment_seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Select the examples of each slice; see `Split`."""
        for indices, first in slices:
            indices = indices.to(self.labels.device, non_blocking=True)
            if self.rows is not None:
                indices = self.rows.index_select(0, indices)
            images = self.images.index_select(0, indices)
            if self.augmented and augment_seed is not None:
                images = crop_and_flip(images, first, augment_seed)
            if self.mean is not None and self.std is not None:
                images = images.float().sub_(self.mean).div_(self.std)
            yield images, self.labels.index_select(0, indices)


def split_indices(examples: int, sizes: tuple[int, ...], split_seed: int) -> list[Tensor]:
    """Cut 0 … examples − 1 into the rest, which comes first, and parts of `sizes`, as `split_seed` decides.

    Raises:
        RequestError: a part is empty, or nothing is left to train on.
    """
    if min(sizes, default=1) < 1 or sum(sizes) >= examples:
        raise RequestError(
            f"dataset: a validation or test part of {', '.join(map(str, sizes))} of {examples} examples."
            f"\nEach part needs at least 1, together less than {examples}."
        )
    generator = torch.Generator().manual_seed(derive_seed("split", split_seed))
    order = torch.randperm(examples, generator=generator)
    return list(torch.split(order, [examples - sum(sizes), *sizes]))


def in_memory_splits(
    name: str,
    images: Tensor,
    labels: Tensor,
    parts: Sequence[Tensor],
    classes: int,
    digest: str,
    source: str,
    device: torch.device,
    augment: bool,
) -> Splits:
    """Return a data set of images on the device, normalised.

    Args:
        name, classes, digest, source: see `Splits`; `content_digest` makes the digest.
        images: uint8 [N, C, H, W] of all parts.
        labels: [N].
        parts: the indices of the examples in train, val and test. The training part's mean and standard deviation of
            each channel normalise all three.
        augment: crop and flip the training batches.

    Raises:
        RequestError: the training part has no example of a class that the data set has.
    """
    train = labels[parts[0]]
    in_all, in_train = (torch.bincount(found, minlength=classes).cpu() for found in (labels, train))
    if (missing := (in_all > 0) & (in_train == 0)).any():
        first = int(missing.nonzero()[0])
        raise RequestError(
            f"dataset={name}: the training split of {len(train)} examples has none of class {first}."
            "\nLeave it more examples, or choose another dataset.split_seed."
        )
    mean, std = (values[:, None, None] for values in channel_statistics(images[parts[0]]))
    as_floats = not augment and images.numel() * 4 <= FLOAT_LIMIT_BYTES

    def place(rows: Tensor) -> InMemorySplit:
        if as_floats:
            floats = images[rows].float().sub_(mean).div_(std)
            return InMemorySplit(floats.to(device), labels[rows].to(device))
        statistics = mean.to(device), std.to(device)
        return InMemorySplit(images.to(device), labels.to(device), *statistics, augment, rows.to(device))

    placed = [place(rows) for rows in parts]
    return Splits(name, placed[0], placed[1], placed[2], classes, digest, guess_loss(train, classes), source)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, float32 [C], of each channel of uint8 images [N, C, H, W].

    They are exact, because they come from the counts of the 256 values.
    """
    values = torch.arange(256, dtype=torch.float64)
    means, stds = [], []
    for channel in range(images.shape[1]):
        count = torch.bincount(images[:, channel].flatten(), minlength=256).double().cpu()
        mean = (count @ values) / count.sum()
        means.append(mean)
        stds.append(((count @ (values - mean) ** 2) / count.sum()).sqrt().clamp_min(1e-6))
    return torch.stack(means).float(), torch.stack(stds).float()


def guess_loss(labels: Tensor, classes: int) -> float:
    """Return the entropy in nats of the label frequencies: the mean loss of the best constant guess."""
    frequencies = torch.bincount(labels.cpu(), minlength=classes).double() / len(labels)
    return -sum(p * math.log(p) for p in frequencies.tolist() if p > 0)


def content_digest(*arrays: np.ndarray | Tensor) -> str:
    """Return the first 32 hex digits of a SHA-256 over shape, type and bytes of `arrays` (MLflow allows 36)."""
    sha = hashlib.sha256()
    for array in arrays:
        contiguous = np.ascontiguousarray(array)
        sha.update(f"{contiguous.shape}{contiguous.dtype}".encode())
        sha.update(contiguous.data)
    return sha.hexdigest()[:32]
