"""A small convolutional network."""

from collections.abc import Sequence

from torch import Tensor, nn


class SimpleCNN(nn.Module):
    """5×5 convolutions with ReLU and 2×2 max-pooling, then a dense layer (Shallue et al. 2018, arXiv:1811.03600).

    Each ReLU follows its pooling, where it has a quarter of the numbers to compute and to keep. The result is the same
    in either order, because ReLU is monotonic. `channels` are the convolutions' outputs, `dense` is the layer's width.
    """

    def __init__(self, shape: Sequence[int], classes: int, channels: Sequence[int], dense: int) -> None:
        super().__init__()
        inputs, height, width = shape
        layers: list[nn.Module] = []
        for outputs in channels:
            layers += [nn.Conv2d(inputs, outputs, kernel_size=5, padding=2), nn.MaxPool2d(2), nn.ReLU()]
            inputs, height, width = outputs, height // 2, width // 2
        layers += [nn.Flatten(), nn.Linear(inputs * height * width, dense), nn.ReLU(), nn.Linear(dense, classes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [n, C, H, W] to logits [n, classes]."""
        return self.layers(images)
