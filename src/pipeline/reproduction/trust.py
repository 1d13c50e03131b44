"""What a logged configuration may contain, and what it may build.

Hydra calls whatever a `_target_` names. A configuration that its user typed may name anything. One that was read from a
tracking store may name only what is listed here, each where it belongs, since whoever can write to the store could
otherwise run code, or have files written.
"""

import re
from collections.abc import Collection
from typing import Any

import yaml

from lr_study import reason_of
from pipeline.config import walk
from pipeline.errors import RequestError

# Limits on a logged file, in characters and levels; this project's own have about two thousand, and four.
MAX_CHARACTERS = 200_000
MAX_DEPTH = 20
MAX_INTEGER = 2**63
SHOWN_CHARACTERS = 80
# The torchvision data sets of conf/dataset/. Other sets may unpickle the files that they read.
IMAGE_SETS = ("CIFAR10", "FashionMNIST", "KMNIST", "MNIST")
# Arguments by which torchvision's models download weights and unpickle them; `_args_` may hold them by position.
DOWNLOADS = ("weights", "pretrained", "_args_")


def parse_logged(text: str) -> dict[str, Any]:
    """Parse a logged `config.yaml` into plain data, building nothing; raise RequestError if it can't be plain data."""
    try:
        _check_structure(text)
        config = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"config/config.yaml can't be read: {reason_of(error)}.") from None
    if not isinstance(config, dict):
        raise _not_a_configuration()
    for key, value in walk(config):
        if isinstance(value, dict) and not all(isinstance(name, str) and name.isprintable() for name in value):
            raise _not_a_configuration()
        if isinstance(value, str) and "${" in value:
            raise RequestError(f"config/config.yaml has ${{…}} in {key}; interpolations are resolved before logging.")
        if not isinstance(value, dict | list) and not _is_plain(value):
            raise RequestError(f"config/config.yaml has a value in {key} that a configuration never has.")
    return config


def check_trusted(config: dict[str, Any], trusted: Collection[str] = ()) -> None:
    """Raise RequestError for the first thing built or read that is neither listed here nor named in `trusted`."""
    for key, value in walk(config):
        is_target = "_target_" in key.split(".") and not isinstance(value, dict | list)
        if is_target and value not in trusted:
            _check_target(key, value)
    for key, node in walk(config):
        target = node.get("_target_") if isinstance(node, dict) else None
        if target in trusted or not str(target).startswith("torchvision.models."):
            continue
        for name, value in node.items():
            if name.startswith(DOWNLOADS) and value not in (None, False, []):
                raise RequestError(
                    f"{key}.{name}={shown(value)}: a logged configuration may not download weights and unpickle them."
                    f"\nIf you know them and trust them: --trust {target}."
                )
    dataset = config.get("dataset")
    if not isinstance(dataset, dict):
        return
    if "_args_" in dataset and dataset.get("_target_") not in trusted:
        raise RequestError(
            f"dataset._args_={shown(dataset['_args_'])}: a logged configuration has its data set's arguments by name."
            "\nOnly so can they be checked; pipeline.train takes them in any form."
        )
    source = dataset.get("source")
    if source is not None and source not in IMAGE_SETS and not (source in trusted and _is_image_set(source)):
        raise RequestError(
            f"dataset.source={shown(source)}: a logged configuration may read only {', '.join(IMAGE_SETS)}."
            f"\nIf you know torchvision's {shown(source)} and trust it: --trust {shown(source)}."
        )


def shown(value: object) -> str:
    """A logged value for a message, cut to the length of a line."""
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _not_a_configuration() -> RequestError:
    return RequestError("config/config.yaml is not a configuration: it was not written by this project, or edited.")


def _check_structure(text: str) -> None:
    """Raise ValueError for YAML that is too long or deep, expands references, or tags values with Python types."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError("far too long")
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
            raise ValueError("with references, or nested far too deep")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"with the tag {shown(event.tag)}")


def _is_plain(value: object) -> bool:
    """Whether a configuration may hold this value: text without control characters, a bounded number, or None."""
    if isinstance(value, str):
        return re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", value) is None
    if isinstance(value, int):
        return abs(value) < MAX_INTEGER
    return value is None or isinstance(value, float)


def _check_target(key: str, target: object) -> None:
    """Raise RequestError unless `target` is listed for the place `key`, the dotted key of a `_target_`."""
    place = _place_of(target)
    if place is None:
        raise RequestError(
            f"{key}={shown(target)}: not built from a logged configuration, since it could be anything."
            f"\nIf you know it and trust it: --trust {shown(target)}."
        )
    # Only a model has parts. A data set within the data set would escape the checks of its `source` and `root`.
    if key != f"{place}._target_" and not (place == "model" and key.startswith("model.")):
        raise RequestError(
            f"{key}={shown(target)}: a logged configuration may build it as its {place} alone, not here."
            f"\nIf you know it and trust it here, too: --trust {shown(target)}."
        )


def _place_of(target: object) -> str | None:
    """Return the group in which `target` may be built: `dataset`, `model` or `optimizer`; None if it isn't listed."""
    if not isinstance(target, str) or "." not in target:
        return None
    from torch import nn, optim

    import pipeline.models

    module, name = target.rsplit(".", 1)
    match module:
        case "pipeline.data" if name in ("digits", "image_folder", "torchvision_images"):
            return "dataset"
        case "pipeline.models" if name in pipeline.models.__all__:
            return "model"
        case "torch.optim" if _is_subclass(getattr(optim, name, None), optim.Optimizer):
            return "optimizer"
        case "torch.nn" if _is_subclass(getattr(nn, name, None), nn.Module):
            return "model"
        case "torchvision.models":
            from torchvision import models

            return "model" if name in models.list_models(module=models) else None
    return None


def _is_image_set(source: object) -> bool:
    from torchvision import datasets

    return isinstance(source, str) and source in datasets.__all__ and hasattr(getattr(datasets, source), "__mro__")


def _is_subclass(found: object, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)
