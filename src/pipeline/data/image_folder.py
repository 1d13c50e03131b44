"""A user's own images, streamed from disk."""

import functools
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.augment import crop_and_flip
from pipeline.data.splits import Splits, guess_loss, split_indices
from pipeline.data.stream import Slice
from pipeline.errors import RequestError

# ImageNet's channel statistics for values in 0 … 1, as torchvision's own references use them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Files that are read at once for the digest: assumed, not measured.
READERS = 8


@dataclass(frozen=True)
class StreamedSplit:
    """Images that DataLoader workers decode while the model trains; see `pipeline.data.splits.Split`.

    Attributes:
        dataset: yields (uint8 [3, H, W], label) for an index.
        members: indices into `dataset` that form this split, shape [N].
        device: where batches are put.
        loader_workers: processes that decode.
        augmented: whether training batches are cropped and flipped.
    """

    dataset: Any
    members: Tensor
    device: torch.device
    loader_workers: int
    augmented: bool

    def __len__(self) -> int:
        return len(self.members)

    def batches(self, slices: Iterable[Slice], augment_seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode each slice's images in the workers, in order."""
        sampler = _Batches(self.members, slices)
        loader = torch.utils.data.DataLoader(
            self.dataset,
            batch_sampler=sampler,
            num_workers=min(self.loader_workers, os.cpu_count() or 1),
            pin_memory=self.device.type == "cuda",
        )
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STD))
        for images, labels in loader:
            first = sampler.firsts.popleft()
            images = images.to(self.device, non_blocking=True)
            if self.augmented and augment_seed is not None:
                images = crop_and_flip(images, first, augment_seed)
            yield images.float().div_(255).sub_(mean).div_(std), labels.to(self.device, non_blocking=True)


class _Batches:
    """Slices as the lists of indices that a DataLoader's batch_sampler yields.

    The loader asks for batches ahead of handing them out; `firsts` keeps their stream positions meanwhile.
    """

    def __init__(self, members: Tensor, slices: Iterable[Slice]) -> None:
        self.members = members
        self.slices = slices
        self.firsts: deque[int] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        for indices, first in self.slices:
            self.firsts.append(first)
            yield self.members[indices].tolist()


def image_folder(
    name: str,
    root: str,
    classes: int,
    shape: list[int],
    split_seed: int,
    val_fraction: float,
    test_fraction: float,
    augment: bool,
    loader_workers: int,
    device: torch.device,
) -> Splits:
    """Images in ROOT/train/CLASS/, and in ROOT/val and ROOT/test where there are such folders.

    A part without a folder of its own is drawn from train by `split_seed`. The digest is over the relative paths
    and the bytes of the files: each is read once more, once in a process, which takes far less than to decode it.

    Raises:
        RequestError: no such folder, or not `classes` classes in it.
    """
    from torchvision.datasets import ImageFolder  # slow to import, and only some data sets need it
    from torchvision.transforms import v2

    height, width = shape[1:]
    transform = v2.Compose([v2.Resize(max(height, width)), v2.CenterCrop((height, width)), v2.PILToTensor()])
    folders: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        if part == "train" or (Path(root) / part).is_dir():
            try:
                folders[part] = ImageFolder(str(Path(root) / part), transform=transform)
            except FileNotFoundError as error:
                raise RequestError(
                    f"dataset.root={root}: {str(error).splitlines()[0]}"
                    "\nIt must hold train/CLASS/IMAGE files: dataset.root=/path/to/images."
                ) from None
    train = folders["train"]
    if len(train.classes) != classes:
        raise RequestError(
            f"dataset.classes={classes}, but {root}/train holds {len(train.classes)} class folders."
            f"\nSet dataset.classes={len(train.classes)}."
        )
    members = _members(folders, len(train), {"val": val_fraction, "test": test_fraction}, split_seed)
    splits = {
        part: StreamedSplit(folders.get(part, train), members[part], device, loader_workers, augment)
        for part in ("train", "val", "test")
    }
    labels = torch.tensor(train.targets)[members["train"]]
    digest = _content_digest(root, [path for folder in folders.values() for path, _ in folder.samples])
    return Splits(
        name,
        splits["train"],
        splits["val"],
        splits["test"],
        classes,
        digest,
        guess_loss(labels, classes),
        root,
    )


def _members(
    folders: dict[str, Any], train_examples: int, fractions: dict[str, float], split_seed: int
) -> dict[str, Tensor]:
    drawn = [part for part in fractions if part not in folders]
    sizes = tuple(round(fractions[part] * train_examples) for part in drawn)
    pieces = split_indices(train_examples, sizes, split_seed) if drawn else [torch.arange(train_examples)]
    members = dict(zip(["train", *drawn], pieces, strict=True))
    return members | {part: torch.arange(len(folders[part])) for part in fractions if part in folders}


def _content_digest(root: str, paths: list[str]) -> str:
    """First 32 hex digits of a SHA-256 over each file's path below `root` and its own SHA-256."""

    def digest_of(path: str) -> bytes:
        found = os.stat(path)
        return _file_digest(path, found.st_mtime_ns, found.st_size)

    # In threads, since a disk of a network answers many questions at once; hashing lets go of the interpreter.
    with ThreadPoolExecutor(READERS) as readers:
        digests = dict(zip(paths, readers.map(digest_of, paths), strict=True))
    names = {os.fsencode(Path(os.path.relpath(path, root)).as_posix()): path for path in paths}
    sha = hashlib.sha256()
    for name in sorted(names):
        sha.update(name + b"\0" + digests[names[name]])
    return sha.hexdigest()[:32]


@functools.cache
def _file_digest(path: str, mtime_ns: int, size: int) -> bytes:
    """SHA-256 of a file's bytes; kept as long as its time and size stay what they are."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
