"""Random crop and flip: each example has its own draw, on the device, whatever batch it is in."""

import torch
import torch.nn.functional as F
from torch import Tensor

_MASK = (1 << 31) - 1


def crop_and_flip(images: Tensor, first: int, seed: int, padding: int = 4) -> Tensor:
    """Pad with zeros, crop back at a random position, and flip left-right with probability ½.

    The draw is a hash of the seed and the example's position in the stream, so cutting the stream into other
    batches or micro-batches gives the same images.

    Args:
        images: shape [n, C, H, W], any dtype, on any device; those returned have the same.
        first: stream position of the first image; the others follow it.
        padding: pixels on each side.
    """
    n, _, height, width = images.shape
    device = images.device
    position = torch.arange(first, first + n, device=device)
    offsets = 2 * padding + 1
    top = _hash(position, seed, 0) % offsets
    left = _hash(position, seed, 1) % offsets
    flip = _hash(position, seed, 2) % 2 == 1
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    columns = left[:, None] + torch.where(flip[:, None], columns.flip(1), columns)
    padded = F.pad(images, (padding, padding, padding, padding))
    example = torch.arange(n, device=device)[:, None, None]
    return padded[example, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _hash(position: Tensor, seed: int, draw: int) -> Tensor:
    """Return 31 pseudo-random bits for each position: the 32-bit finaliser of MurmurHash3, computed in int64."""
    x = (position * 3 + draw + (seed & _MASK) * 0x9E3779B1) & 0xFFFFFFFF
    for multiplier, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        x = x ^ (x >> shift)
        x = (x * multiplier) & 0xFFFFFFFF
    return (x ^ (x >> 16)) & _MASK
