"""scikit-learn's handwritten digits: real data without a download, and the example of how a data set is added."""

from importlib.metadata import distribution

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
    # [1797, 65] pixels and label, from scikit-learn's file: importing it takes longer than a short training.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = torch.from_numpy(np.loadtxt(str(file), delimiter=",", dtype=np.uint8))
    images, labels = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].long()
    chosen = split_indices(len(labels), (val_examples, test_examples), split_seed)
    parts = {part: (images[i], labels[i]) for part, i in zip(("train", "val", "test"), chosen, strict=True)}
    digest = content_digest(images, labels)
    return in_memory_splits(name, parts, classes, digest, "sklearn.datasets.load_digits", device, augment=False)
