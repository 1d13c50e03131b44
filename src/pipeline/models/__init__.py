"""Networks: each takes `shape` (channels, height, width) and `classes`, and maps [n, *shape] to [n, classes]."""

from pipeline.models.mlp import MLP
from pipeline.models.resnet import resnet18
from pipeline.models.simple_cnn import SimpleCNN

__all__ = ["MLP", "SimpleCNN", "resnet18"]
