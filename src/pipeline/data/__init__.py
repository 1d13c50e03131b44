"""Data sets: functions that a `dataset` configuration names in `_target_`, and the splits that they return.

To add a data set, write a function like `digits` in digits.py: it reads images and labels, cuts them into train,
val and test with `split_indices`, and returns `in_memory_splits(…)`. It takes the keys of its configuration as
arguments, and `device`. Then write conf/dataset/NAME.yaml with `_target_: my_module.my_function` and those keys.
`reproduce` builds it with `--trust my_module.my_function`, or if reproduction/trust.py lists it.
"""

from pipeline.data.digits import digits
from pipeline.data.image_folder import image_folder
from pipeline.data.splits import InMemorySplit, Splits
from pipeline.data.stream import ExampleStream
from pipeline.data.torchvision_images import torchvision_images

__all__ = ["ExampleStream", "InMemorySplit", "Splits", "digits", "image_folder", "torchvision_images"]
