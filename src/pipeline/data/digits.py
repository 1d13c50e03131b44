"""scikit-learn's handwritten digits: real data without a download, and the example of how a data set is added."""

import functools
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch

from pipeline.data.splits import Splits, content_digest, in_memory_splits, split_indices


def digits(
    name: str,
    classes: int,
    shape: list[int],
    split_seed: int,
    val_examples: int,
    test_examples: int,
    device: torch.device,
) -> Splits:
    """Load 1,797 images of 8×8 pixels with values 0 … 16 (UCI; Alpaydin & Kaynak 1998).

    `split_seed` draws the examples of validation and test; the others are for training.
    """
    images, labels, digest = _read()
    parts = split_indices(len(labels), (val_examples, test_examples), split_seed)
    source = "sklearn.datasets.load_digits"
    return in_memory_splits(name, images, labels, parts, classes, digest, source, device, augment=False)


@functools.cache
def _read() -> tuple[torch.Tensor, torch.Tensor, str]:
    """Return images uint8 [1797, 1, 8, 8], labels [1797] and a digest; read once for all splits."""
    # [1797, 65] pixels and label. Private part of scikit-learn: without this file, it is imported, which takes longer
    # than a short training.
    file = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    if file.is_file():
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        pixels, classes = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, classes = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels, dtype=torch.uint8).reshape(-1, 1, 8, 8), torch.tensor(classes).long()
    return images, labels, content_digest(images, labels)
