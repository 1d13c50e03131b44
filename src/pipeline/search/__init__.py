"""How this project searches a learning rate: an Optuna sampler and an Optuna pruner, chosen in conf/hydra/sweeper."""

from pipeline.search.pruner import FarPruner
from pipeline.search.sampler import SpreadSampler

__all__ = ["FarPruner", "SpreadSampler"]
