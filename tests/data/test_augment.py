"""Crop and flip: each example has its own draw, whatever batch it is in."""

import torch
import torch.nn.functional as F

from pipeline.data.augment import _hash, crop_and_flip

IMAGES = torch.arange(40 * 3 * 8 * 6).reshape(40, 3, 8, 6) % 251


def one_by_one(images, first, seed, padding):
    """The obvious version: one image after the other, with slices."""
    results = []
    for number, image in enumerate(images):
        position = torch.tensor([first + number])
        top, left = (int(_hash(position, seed, draw)) % (2 * padding + 1) for draw in (0, 1))
        padded = F.pad(image, (padding,) * 4)
        crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        results.append(crop.flip(2) if int(_hash(position, seed, 2)) % 2 else crop)
    return torch.stack(results)


def test_it_equals_cropping_and_flipping_one_image_after_the_other():
    assert torch.equal(crop_and_flip(IMAGES, 17, seed=5, padding=2), one_by_one(IMAGES, 17, 5, 2))


def test_cutting_the_stream_into_other_batches_changes_no_image():
    whole = crop_and_flip(IMAGES, 100, seed=1)
    pieces = [crop_and_flip(IMAGES[start : start + 7], 100 + start, seed=1) for start in range(0, 40, 7)]
    assert torch.equal(torch.cat(pieces), whole)


def test_draws_are_uniform_and_independent_between_examples_and_seeds():
    position = torch.arange(90_000)
    for seed in (0, 1, 12345):
        for draw in range(3):
            counts = torch.bincount(_hash(position, seed, draw) % 9, minlength=9).double()
            chi_square = ((counts - 10_000) ** 2 / 10_000).sum()
            assert chi_square < 27.9  # 99.95 % quantile for 8 degrees of freedom
    a, b = _hash(position, 0, 0) % 9, _hash(position, 1, 0) % 9
    assert abs(torch.corrcoef(torch.stack([a, b]).double())[0, 1]) < 0.015
    assert abs(torch.corrcoef(torch.stack([a[1:], a[:-1]]).double())[0, 1]) < 0.015
