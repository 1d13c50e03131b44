"""This project's way of searching a learning rate."""

from pipeline.search.far import FarPruner
from pipeline.search.spread import SpreadSampler

__all__ = ["FarPruner", "SpreadSampler"]
