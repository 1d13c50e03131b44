"""Splits: which examples are in them, how images are normalised, and digests."""

import math

import numpy as np
import pytest
import torch

from pipeline.data import digits
from pipeline.data.splits import channel_statistics, content_digest, guess_loss, in_memory_splits, split_indices
from pipeline.data.stream import Slice
from pipeline.errors import RequestError

CPU = torch.device("cpu")


def load_digits(split_seed=0, val=360):
    return digits("digits", 10, [1, 8, 8], split_seed, val, 360, CPU)


def test_digits_are_the_real_ones_cut_into_three_parts():
    splits = load_digits()
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1077, 360, 360)
    assert splits.train.images.shape == (1077, 1, 8, 8)
    counts = sum(torch.bincount(part.labels, minlength=10) for part in (splits.train, splits.val, splits.test))
    # scikit-learn's documentation
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_split_depends_on_split_seed_alone():
    again, other = load_digits(), load_digits(split_seed=1)
    assert torch.equal(load_digits().val.labels, again.val.labels)
    assert not torch.equal(again.val.labels, other.val.labels)
    assert again.digest == other.digest


def test_parts_are_disjoint_and_hold_every_example():
    parts = split_indices(100, (20, 30), 7)
    assert [len(part) for part in parts] == [50, 20, 30]
    assert sorted(torch.cat(parts).tolist()) == list(range(100))


@pytest.mark.parametrize("sizes", [(100,), (50, 50), (0,), (-1,)])
def test_sizes_that_leave_a_part_empty_are_refused(sizes):
    with pytest.raises(RequestError, match="less than 100"):
        split_indices(100, sizes, 0)


def test_training_images_have_mean_0_and_standard_deviation_1():
    images = load_digits().train.images
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_bytes_converted_in_each_batch_equal_floats_converted_once():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 3, 5, 5), generator=generator, dtype=torch.uint8)
    labels = torch.arange(30) % 4
    parts = [torch.arange(30)] * 3
    floats = in_memory_splits("x", images, labels, parts, 4, "d", "s", CPU, augment=False)
    as_bytes = in_memory_splits("x", images, labels, parts, 4, "d", "s", CPU, augment=True)
    assert floats.train.images.dtype == torch.float32
    assert as_bytes.train.images.dtype == torch.uint8
    slices = [Slice(torch.tensor([3, 1, 29]), 0)]
    (a, la), (b, lb) = next(floats.train.batches(slices)), next(as_bytes.train.batches(slices))
    assert torch.equal(a, b)
    assert torch.equal(la, lb)


def test_a_split_whose_training_part_lacks_a_class_is_refused():
    images, labels = torch.zeros(30, 1, 2, 2, dtype=torch.uint8), torch.arange(30) // 10
    with pytest.raises(RequestError, match="20 examples has none of class 2"):
        in_memory_splits(
            "x", images, labels, torch.split(torch.arange(30), [20, 5, 5]), 3, "d", "s", CPU, augment=False
        )


def test_channel_statistics_equal_numpys():
    images = torch.randint(0, 256, (20, 2, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    array = images.numpy().astype(np.float64)
    assert mean.numpy() == pytest.approx(array.mean(axis=(0, 2, 3)))
    assert std.numpy() == pytest.approx(array.std(axis=(0, 2, 3)))


def test_the_guess_loss_is_the_entropy_of_the_labels():
    assert guess_loss(torch.arange(1000) % 10, 10) == pytest.approx(math.log(10))
    assert guess_loss(torch.tensor([0, 0, 0, 1]), 2) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_the_digest_changes_with_one_byte_and_is_short_enough_for_mlflow():
    array = np.arange(10, dtype=np.uint8)
    digest = content_digest(array)
    array[3] += 1
    assert content_digest(array) != digest
    assert len(digest) == 32
