"""Builds data set, model and optimizer from their groups of the configuration, through Hydra's `instantiate`.

Whatever `_target_` names is called with the other keys of its group, so a user's own class needs no code here.
"""

import contextlib
import copy
import functools
import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn

from lr_study import reason_of
from pipeline.config.compose import walk
from pipeline.data import Splits
from pipeline.engine.optimizer_calls import fused_if_possible, keep_compiler_unimported
from pipeline.errors import RequestError


def build_data(group: dict[str, Any], device: torch.device) -> Splits:
    """Build the data set, on `device` where it fits; raise RequestError if it can't be had."""
    return _build_data(json.dumps(group), device)


@functools.lru_cache(maxsize=1)
def _build_data(group: str, device: torch.device) -> Splits:
    """Keeps the data set for the next trial in the same process; the group comes as JSON, which can be hashed."""
    splits = _build("dataset", json.loads(group), device=device)
    if not isinstance(splits, Splits):
        raise RequestError(f"dataset._target_={json.loads(group)['_target_']} gives no pipeline.data.Splits.")
    return splits


def build_model(group: dict[str, Any]) -> nn.Module:
    """Build the network, on the CPU."""
    model = _build("model", group)
    if not isinstance(model, nn.Module):
        raise RequestError(f"model._target_={group['_target_']} gives no torch.nn.Module.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RequestError("model has no parameters to train.")
    return model


def build_optimizer(group: dict[str, Any], parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Build the optimizer over `parameters`; the `base_*` keys belong to the scaling rule."""
    arguments = {key: value for key, value in group.items() if not key.startswith("base_")}
    partial = _build("optimizer", arguments | {"_partial_": True})
    keep_compiler_unimported()
    try:
        optimizer = fused_if_possible(partial, parameters)
    except (TypeError, ValueError) as error:
        raise RequestError(f"optimizer: {group['_target_']} refuses its arguments: {error}.") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise RequestError(f"optimizer._target_={group['_target_']} gives no torch.optim.Optimizer.")
    return optimizer


def _build(name: str, group: dict[str, Any], **more: Any) -> Any:
    if not group.get("_target_"):
        raise RequestError(f"{name}._target_ is not set.\nSet it to a class or function: {name}._target_=package.Name.")
    try:
        with contextlib.chdir(os.getcwd()):  # a user's code may go elsewhere; paths are taken from here
            return _instantiate(group, more)
    except SystemExit as error:
        raise RequestError(f"{name}._target_={group['_target_']}: it called sys.exit({error.code}).") from error
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, RequestError):
            raise cause from None
        if isinstance(cause, TypeError) and not group.get("_partial_"):
            raise RequestError(
                f"{name}: {group['_target_']} refuses its arguments: {cause}."
                f"\nChanging {name}._target_ alone keeps the old keys: start from {name}=custom, or delete them with "
                f"~{name}.KEY."
            ) from error
        raise RequestError(f"{name}._target_={group['_target_']}: {reason_of(error)}.") from error


def _instantiate(group: dict[str, Any], more: dict[str, Any]) -> Any:
    """Do what Hydra's `instantiate` does; where no argument is built in its turn, Hydra reads the group once.

    It takes two milliseconds, and each replicate of a run has a model and a data set.
    """
    if group.get("_partial_") or any(key.endswith("._target_") for key, _ in walk(group)):
        return instantiate(group, _convert_="all", **more)
    make = _partial_of(json.dumps({**group, "split_seed": None} if "split_seed" in group else group))
    own = {"split_seed": group["split_seed"]} if "split_seed" in group else {}
    # Copied, since a model may change the lists that it gets.
    return make.func(*copy.deepcopy(make.args), **copy.deepcopy(make.keywords) | own | more)


@functools.lru_cache(maxsize=8)
def _partial_of(group: str) -> "functools.partial[Any]":
    return instantiate({**json.loads(group), "_partial_": True}, _convert_="all")
