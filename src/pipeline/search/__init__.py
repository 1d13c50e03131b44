"""This project's way of searching a learning rate."""

from pipeline.search.pruner import FarPruner
from pipeline.search.sampler import SpreadSampler

__all__ = ["FarPruner", "SpreadSampler"]
