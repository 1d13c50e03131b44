"""scikit-learn's embedded digits: real data that needs no download."""

import importlib.util
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
    """1,797 handwritten digits of 8×8 pixels with values 0 … 16 (UCI; Alpaydin & Kaynak 1998).

    Validation and test are drawn by `split_seed`; the rest trains.
    """
    table = torch.from_numpy(_table())
    images, labels = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].long()
    chosen = split_indices(len(labels), (val_examples, test_examples), split_seed)
    parts = {part: (images[i], labels[i]) for part, i in zip(("train", "val", "test"), chosen, strict=True)}
    digest = content_digest(images, labels)
    return in_memory_splits(name, parts, classes, digest, "sklearn.datasets.load_digits", device, augment=False)


def _table() -> np.ndarray:
    """[1797, 65] pixels and label as scikit-learn ships them; importing it takes longer than a short training."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if file.exists():
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits  # a scikit-learn that keeps the file elsewhere

    return np.column_stack(load_digits(return_X_y=True)).astype(np.uint8)
