"""Image sets that torchvision knows how to download and read."""

import contextlib
import functools
import gzip
import io
import os
import re
import shutil
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

from lr_study import reason_of
from pipeline.data.splits import Splits, content_digest, in_memory_splits, split_indices
from pipeline.errors import RequestError

# Debian's package dataset-fashion-mnist puts the four original files here.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def torchvision_images(
    name: str,
    source: str,
    root: str,
    classes: int,
    shape: list[int],
    split_seed: int,
    val_examples: int,
    augment: bool,
    device: torch.device,
) -> Splits:
    """Load a torchvision data set into memory; `split_seed` draws validation from its training part.

    `source` is a class in `torchvision.datasets` that takes `root`, `train` and `download`. The folder `root` holds it,
    or it is downloaded into it.

    Raises:
        RequestError: it is not there and can't be downloaded, or a file can't have this `name`.
    """
    if re.fullmatch(r"[\w-]+", name) is None:  # a lock file is named after it
        raise RequestError(f"dataset.name={name}: it can't be a name.\nUse letters, digits, _ and -.")
    images, labels, train_examples, digest = _read(name, source, root, device)
    train, val = split_indices(train_examples, (val_examples,), split_seed)
    parts = train, val, torch.arange(train_examples, len(labels))
    source = f"torchvision.datasets.{source}"
    return in_memory_splits(name, images, labels, parts, classes, digest, source, device, augment)


@functools.lru_cache(maxsize=1)
def _read(name: str, source: str, root: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int, str]:
    """Return images and labels on the device, training's first, the number of training's, and a digest.

    They are read once for all splits.
    """
    from torchvision import datasets  # slow to import, and only these data sets need it

    dataset_class = getattr(datasets, source)
    ensure_present(name, dataset_class, Path(root))
    images, labels = _as_tensors(dataset_class(root, train=True))
    test_images, test_labels = _as_tensors(dataset_class(root, train=False))
    digest = content_digest(images, labels, test_images, test_labels)
    everything = torch.cat([images, test_images]).to(device), torch.cat([labels, test_labels]).to(device)
    return *everything, len(labels), digest


def is_present(source: object, root: str) -> bool:
    """Return whether `root` holds all of torchvision's data set `source`, so that nothing must be written there."""
    from torchvision import datasets

    try:
        return isinstance(source, str) and _is_complete(getattr(datasets, source), Path(root))
    except Exception:  # unreadable files, or files of another format
        return False


def ensure_present(name: str, dataset_class: type, root: Path) -> None:
    """Get the data set into `root`, unless it is there: from Debian's package, or by a download.

    Several processes may call this at the same time. The files arrive in a temporary folder first, so that a failure
    leaves nothing in `root`.

    Raises:
        RequestError: `root` can't be written, or the download failed.
    """
    if _is_complete(dataset_class, root):
        return
    created = [folder for folder in (root, *root.parents) if not folder.exists()][-1:]  # the topmost one
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"dataset.root={root}: can't be written ({error.strerror}), and {name} is not in it."
            "\nName a folder that can: dataset.root=/path, or the environment variable PIPELINE_DATA."
        ) from None
    try:
        with FileLock(root / f".{name}.lock"), tempfile.TemporaryDirectory(dir=root) as arriving:
            if _is_complete(dataset_class, root):  # another process was faster
                return
            if dataset_class.__name__ == "FashionMNIST" and DEBIAN_FASHION_MNIST.is_dir():
                _unpack_debian(Path(arriving) / "FashionMNIST" / "raw")
            else:
                _download(name, dataset_class, arriving, root)
            # Folders only: some data sets leave the archive that they came in beside them.
            for folder in Path(arriving).glob("*/"):
                shutil.copytree(folder, root / folder.name, dirs_exist_ok=True)
    except RequestError:
        for folder in created:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _as_tensors(dataset: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 images [N, C, H, W] and int64 labels [N]: torchvision's classes keep them in different forms."""
    images = torch.as_tensor(dataset.data)  # type: ignore[attr-defined]
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(dataset.targets).long()  # type: ignore[attr-defined]


def _is_complete(dataset_class: type, root: Path) -> bool:
    try:
        dataset_class(str(root), train=False)
    except RuntimeError:
        return False
    return True


def _unpack_debian(raw: Path) -> None:
    raw.mkdir(parents=True)
    for packed in DEBIAN_FASHION_MNIST.glob("*.gz"):
        with gzip.open(packed, "rb") as source, open(raw / packed.stem, "wb") as target:
            shutil.copyfileobj(source, target)


def _download(name: str, dataset_class: type, arriving: str, root: Path) -> None:
    try:
        # torchvision prints its progress and each mirror that fails; the error below says what matters.
        with contextlib.redirect_stdout(io.StringIO()):
            dataset_class(arriving, train=True, download=True)
    except (RuntimeError, OSError) as error:
        debian = " `apt-get install dataset-fashion-mnist`, or" if name == "fashion_mnist" else ""
        raise RequestError(
            f"dataset={name} is not in {os.path.abspath(root)} and can't be downloaded ({reason_of(error)})."
            f"\nTo get it:{debian} run once with a network, or copy torchvision's {dataset_class.__name__} files "
            "there, or name their folder: dataset.root=/path. dataset=digits needs none of it."
        ) from None
