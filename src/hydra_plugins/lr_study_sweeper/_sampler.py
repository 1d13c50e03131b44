"""Making the sampler that a configuration names."""

import hashlib
import inspect
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.samplers import BaseSampler

from hydra_plugins.lr_study_sweeper._errors import SweepRequestError


def make_sampler(node: DictConfig, seed: int, study: str, number: int) -> BaseSampler:
    """Make the sampler for one trial; its randomness follows from the arguments, not from the process's history.

    Raises:
        SweepRequestError: there is no such sampler, or it refuses its arguments.
    """
    arguments: Any = OmegaConf.to_container(node, resolve=True)
    target = arguments.get("_target_")
    try:
        if "seed" in inspect.signature(get_class(target)).parameters:
            digest = hashlib.sha256(repr((seed, study, number)).encode()).digest()
            arguments["seed"] = int.from_bytes(digest[:4], "big")
        sampler = instantiate(arguments, _convert_="all")
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise SweepRequestError(f"hydra.sweeper.sampler._target_={target}: {reason}") from error
    if not isinstance(sampler, BaseSampler):
        raise SweepRequestError(f"hydra.sweeper.sampler._target_={target} is not an Optuna sampler.")
    return sampler
