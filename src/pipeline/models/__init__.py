"""Networks: each takes the images' `shape` (channels, height, width) and `classes`, and maps [n, *shape] to [n, classes].

To add one, write such a class in a new file like mlp.py, import it here, and write conf/model/NAME.yaml like
conf/model/mlp.yaml. A network outside of this package needs no code here: conf/model/custom.yaml.
"""

from pipeline.models.mlp import MLP
from pipeline.models.resnet import resnet18
from pipeline.models.simple_cnn import SimpleCNN

__all__ = ["MLP", "SimpleCNN", "resnet18"]
