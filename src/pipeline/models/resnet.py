"""torchvision's ResNet-18, adapted to the size of the images."""

from collections.abc import Sequence

from torch import nn

# Largest images with the small first layer, in pixels. The ImageNet layer would leave 1 of CIFAR's 32 and 2 of Tiny
# ImageNet's 64 pixels for the last stage.
SMALL_IMAGE = 64


def resnet18(shape: Sequence[int], classes: int, zero_init_residual: bool = True) -> nn.Module:
    """Build ResNet-18 (He et al. 2015, arXiv:1512.03385) for images of `shape` = (channels, height, width).

    Images of at most 64 pixels get a 3×3 first convolution with stride 1 and no max-pooling.
    """
    from torchvision.models import resnet18 as build  # slow to import, and only this model needs it

    model = build(num_classes=classes, zero_init_residual=zero_init_residual)
    channels, height, width = shape
    if max(height, width) <= SMALL_IMAGE:
        model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    # torchvision's own initialisation, for a layer that was replaced; one that wasn't is only drawn again.
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model
