"""scikit-learn's embedded digits: real data that needs no download."""

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
    from sklearn.datasets import load_digits  # slow to import, and only this data set needs it

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    chosen = split_indices(len(labels), (val_examples, test_examples), split_seed)
    parts = {part: (images[i], labels[i]) for part, i in zip(("train", "val", "test"), chosen, strict=True)}
    digest = content_digest(images, labels)
    return in_memory_splits(name, parts, classes, digest, "sklearn.datasets.load_digits", device, augment=False)
