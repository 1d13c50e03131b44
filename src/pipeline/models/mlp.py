"""A fully connected network."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Dense layers with ReLU, of the widths `hidden`, and a linear output layer."""

    def __init__(self, shape: Sequence[int], classes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [math.prod(shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        """Map images [n, C, H, W] to logits [n, classes]."""
        return self.layers(images)
