"""A user's own images, decoded from disk while the model trains."""

import functools
import hashlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lr_study import available_cores, reason_of
from pipeline.data.augment import crop_and_flip
from pipeline.data.splits import Splits, guess_loss, split_indices
from pipeline.data.stream import Slice
from pipeline.errors import RequestError

# ImageNet's channel statistics for values in 0 … 1, as torchvision's own references use them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Files that are read at the same time for the digest: assumed, not measured.
READERS = 8
# Of the processes that decode: Python's own defaults.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class StreamedSplit:
    """Images that DataLoader workers decode while the model trains; see `pipeline.data.splits.Split`."""

    dataset: Any  # yields (uint8 [3, H, W], label) for an index
    members: Tensor  # indices into `dataset` that form this split, shape [N]
    device: torch.device
    loader_workers: int  # most processes that decode; no more are started than there are cores
    augmented: bool  # whether training batches are cropped and flipped

    def __len__(self) -> int:
        return len(self.members)

    def batches(self, slices: Iterable[Slice], augment_seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode the images of each slice in the workers, and yield the batches in order."""
        # The loader asks for indices ahead of the batches that it yields; `tee` keeps the slices in between.
        slices, ahead = itertools.tee(slices)
        workers = min(self.loader_workers, available_cores())
        loader = torch.utils.data.DataLoader(
            self.dataset,
            batch_sampler=(self.members[piece.indices].tolist() for piece in ahead),
            num_workers=workers,
            # Named, since in a sweep's worker processes Python's default is joblib's, which starts no loader.
            multiprocessing_context=START_METHOD if workers else None,
            pin_memory=self.device.type == "cuda",
        )
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STD))
        for (images, labels), piece in zip(loader, slices, strict=True):
            images = images.to(self.device, non_blocking=True)
            if self.augmented and augment_seed is not None:
                images = crop_and_flip(images, piece.first, augment_seed)
            yield images.float().div_(255).sub_(mean).div_(std), labels.to(self.device, non_blocking=True)


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
    """Find the images in ROOT/train/CLASS/, and those in ROOT/val and ROOT/test if these folders exist.

    Where val or test has no folder, `split_seed` draws it from train.

    Raises:
        RequestError: there is no such folder, or it doesn't hold `classes` classes.
    """
    from torchvision.datasets import ImageFolder  # slow to import, and only some data sets need it
    from torchvision.transforms import v2

    height, width = shape[1:]
    transform = v2.Compose([v2.Resize(max(height, width)), v2.CenterCrop((height, width)), v2.PILToTensor()])
    folders: dict[str, Any] = {}
    try:
        for part in PARTS:
            if part == "train" or Path(root, part).is_dir():
                folders[part] = ImageFolder(os.path.join(root, part), transform=transform)
    except FileNotFoundError as error:
        raise RequestError(
            f"dataset.root={root}: {reason_of(error)}."
            "\nIt must hold train/CLASS/IMAGE files: dataset.root=/path/to/images."
        ) from None
    train = folders["train"]
    if len(train.classes) != classes:
        raise RequestError(
            f"dataset.classes={classes}, but {root}/train holds {len(train.classes)} class folders."
            f"\nSet dataset.classes={len(train.classes)}."
        )
    members = {part: torch.arange(len(folder)) for part, folder in folders.items()}
    fractions = {"val": val_fraction, "test": test_fraction}
    missing = [part for part in fractions if part not in folders]
    if missing:
        sizes = tuple(round(fractions[part] * len(train)) for part in missing)
        members |= zip(["train", *missing], split_indices(len(train), sizes, split_seed), strict=True)
    splits = {
        part: StreamedSplit(folders.get(part, train), members[part], device, loader_workers, augment) for part in PARTS
    }
    labels = torch.tensor(train.targets)[members["train"]]
    digest = _files_digest(root, [path for folder in folders.values() for path, _ in folder.samples])
    return Splits(name, **splits, classes=classes, digest=digest, guess_loss=guess_loss(labels, classes), source=root)


def _files_digest(root: str, paths: list[str]) -> str:
    """Return the first 32 hex digits of a SHA-256 over each file's path below `root` and its own SHA-256.

    Reading the files takes far less time than decoding them.
    """

    def digest_of(path: str) -> bytes:
        found = os.stat(path)
        return _file_digest(path, found.st_mtime_ns, found.st_size)

    # In threads: a network disk answers several requests at once, and hashing releases the interpreter lock.
    with ThreadPoolExecutor(READERS) as readers:
        digests = readers.map(digest_of, paths)
        names = [os.fsencode(Path(os.path.relpath(path, root)).as_posix()) for path in paths]
        content = sorted(zip(names, digests, strict=True))
    return hashlib.sha256(b"".join(name + b"\0" + digest for name, digest in content)).hexdigest()[:32]


@functools.cache
def _file_digest(path: str, mtime_ns: int, size: int) -> bytes:
    """Return the SHA-256 of a file's bytes, read once in a process unless its time or size changes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
