"""What a data set is to the engine: three splits that hand out batches."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.data.augment import crop_and_flip
from pipeline.data.stream import Slice, derive_seed
from pipeline.errors import RequestError

# Below this size images are kept as ready floats, above it as bytes that are converted batch by batch:
# assumed, not yet measured.
FLOAT_LIMIT_BYTES = 256 * 2**20


class Split(Protocol):
    """A part of a data set. `batches` turns slices into (images [n, C, H, W] float32, labels [n] int64).

    One that has an `index_device` is given indices that lie there.
    """

    def __len__(self) -> int: ...

    def batches(self, slices: Iterable[Slice], augment_seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches on the device, one a slice; with `augment_seed`, augmented where the data set is."""
        ...


@dataclass(frozen=True)
class Splits:
    """A data set.

    Attributes:
        name: what it is called in messages and in MLflow.
        train, val, test: its parts.
        classes: number of classes.
        digest: first 32 hex digits of a SHA-256 over all its bytes.
        guess_loss: loss in nats of the best constant guess, the entropy of the training labels.
        source: where it came from.
    """

    name: str
    train: Split
    val: Split
    test: Split
    classes: int
    digest: str
    guess_loss: float
    source: str


@dataclass(frozen=True)
class InMemorySplit:
    """Images and labels that live on the device; a batch is an index slice.

    Attributes:
        images: [N, C, H, W], uint8, or float32 that is normalised already.
        labels: [N] int64.
        mean, std: [C, 1, 1], for bytes; None where `images` are floats.
        augmented: whether training batches are cropped and flipped.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None
    augmented: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def index_device(self) -> torch.device:
        """Where images and labels are, and indices had best be."""
        return self.labels.device

    def batches(self, slices: Iterable[Slice], augment_seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Gather each slice's examples; see `Split`."""
        device = self.labels.device
        for indices, first in slices:
            where = indices.to(device, non_blocking=True)
            images = self.images.index_select(0, where)
            if self.augmented and augment_seed is not None:
                images = crop_and_flip(images, first, augment_seed)
            if self.mean is not None and self.std is not None:
                images = images.float().sub_(self.mean).div_(self.std)
            yield images, self.labels.index_select(0, where)


def split_indices(examples: int, sizes: tuple[int, ...], split_seed: int) -> list[Tensor]:
    """Cut 0 … examples − 1 at random into what remains, followed by parts of `sizes`; from `split_seed` alone.

    Raises:
        RequestError: the parts leave nothing to train on.
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
    parts: dict[str, tuple[Tensor, Tensor]],
    classes: int,
    digest: str,
    source: str,
    device: torch.device,
    augment: bool,
) -> Splits:
    """Put (images uint8 [N, C, H, W], labels [N]) of `train`, `val`, `test` on the device, normalised.

    Mean and standard deviation of each channel are those of the training part.
    """
    mean, std = channel_statistics(parts["train"][0])
    mean, std = mean[:, None, None].to(device), std[:, None, None].to(device)
    floats = not augment and sum(images.numel() * 4 for images, _ in parts.values()) <= FLOAT_LIMIT_BYTES

    def place(part: str) -> InMemorySplit:
        images, labels = (tensor.to(device) for tensor in parts[part])
        if floats:
            return InMemorySplit(images.float().sub_(mean).div_(std), labels)
        return InMemorySplit(images, labels, mean, std, augmented=augment)

    guess = guess_loss(parts["train"][1], classes)
    return Splits(name, place("train"), place("val"), place("test"), classes, digest, guess, source)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images [N, C, H, W], exactly, from counts; float32 [C]."""
    values = torch.arange(256, dtype=torch.float64)
    means, stds = [], []
    for channel in range(images.shape[1]):
        count = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        mean = (count @ values) / count.sum()
        means.append(mean)
        stds.append(((count @ (values - mean) ** 2) / count.sum()).sqrt().clamp_min(1e-6))
    return torch.stack(means).float(), torch.stack(stds).float()


def guess_loss(labels: Tensor, classes: int) -> float:
    """Entropy in nats of the label frequencies: the mean loss of the best constant guess."""
    share = torch.bincount(labels.cpu(), minlength=classes).double() / len(labels)
    return -sum(p * math.log(p) for p in share.tolist() if p > 0)


def content_digest(*arrays: np.ndarray | Tensor) -> str:
    """First 32 hex digits of the SHA-256 over the shapes and all bytes of `arrays` (MLflow allows 36)."""
    sha = hashlib.sha256()
    for array in arrays:
        contiguous = np.ascontiguousarray(array)
        sha.update(f"{contiguous.shape}{contiguous.dtype}".encode())
        sha.update(contiguous.data)
    return sha.hexdigest()[:32]
