"""This project's way of searching a learning rate."""

from pipeline.search.spread import SpreadSampler

__all__ = ["SpreadSampler"]
