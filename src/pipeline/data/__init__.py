"""Data sets: what a `dataset` configuration can build, and the splits that come out."""

from pipeline.data.digits import digits
from pipeline.data.image_folder import image_folder
from pipeline.data.splits import InMemorySplit, Split, Splits
from pipeline.data.stream import ExampleStream, Slice
from pipeline.data.torchvision_images import torchvision_images

__all__ = [
    "ExampleStream",
    "InMemorySplit",
    "Slice",
    "Split",
    "Splits",
    "digits",
    "image_folder",
    "torchvision_images",
]
