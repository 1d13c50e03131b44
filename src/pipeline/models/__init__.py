"""Networks: each takes the `shape` (channels, height, width) of images, and `classes`, the number of logits.

To add one, write a class like `MLP` in a new file, list it here, and write conf/model/NAME.yaml like
conf/model/mlp.yaml. A network outside of this package needs no code here: see conf/model/custom.yaml.
"""

from pipeline.models.mlp import MLP
from pipeline.models.resnet import resnet18
from pipeline.models.simple_cnn import SimpleCNN

__all__ = ["MLP", "SimpleCNN", "resnet18"]
