"""Which classes and functions a logged configuration may have built: data from a server must not be a way in.

Hydra's `_target_` calls whatever it names. A configuration that somebody typed may name anything; one that comes out
of a tracking store may name only what is listed here one by one, for much of any package can be made to run code.
"""

from collections.abc import Collection, Iterator
from typing import Any

from pipeline.errors import RequestError

# The largest configuration that is looked at, in characters; ours have some two thousand.
LONGEST = 200_000


def parse_logged(text: str) -> dict[str, Any]:
    """The configuration in a logged `config.yaml`, as plain data: nothing in it is resolved or built.

    Raises:
        RequestError: it is no plain, resolved configuration.
    """
    import yaml

    try:
        if len(text) > LONGEST or any(
            isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)
        ):
            raise ValueError("far too long, or with references that could grow without end")
        config = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise RequestError(f"config/config.yaml can't be read: {str(error).splitlines()[0]}.") from None
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise RequestError("config/config.yaml is not a configuration: it was not written by this project, or edited.")
    if any("${" in str(leaf) for _, leaf in _leaves(config)):
        raise RequestError("config/config.yaml has ${…} in it, which a logged configuration never has: it was edited.")
    return config


def check_trusted(config: dict[str, Any], trusted: Collection[str] = ()) -> None:
    """Refuse a `_target_` anywhere in `config` that is neither listed here nor among the names in `trusted`.

    Raises:
        RequestError: the first such name.
    """
    for key, value in _leaves(config):
        if "_target_" in key.split(".") and value not in trusted and not _is_listed(value):
            raise RequestError(
                f"{key}={value}: not built from a logged configuration, since it could be anything."
                f"\nIf you know it and trust it: --trust {value}."
            )
    source = (config.get("dataset") or {}).get("source")
    if source is not None and not _is_image_set(source):
        raise RequestError(f"dataset.source={source}: torchvision has no such data set.")


def _leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _leaves(value, f"{path}.{number}")
    else:
        yield path, tree


def _is_listed(target: object) -> bool:
    """Whether `target` is a builder of this project, a layer, an optimizer, or one of torchvision's models."""
    if not isinstance(target, str) or "." not in target:
        return False
    from torch import nn, optim

    import pipeline.data
    import pipeline.models

    module, name = target.rsplit(".", 1)
    if module == "pipeline.data":
        return name in ("digits", "image_folder", "torchvision_images")
    if module == "pipeline.models":
        return name in pipeline.models.__all__
    if module == "torch.optim":
        return _is_subclass(getattr(optim, name, None), optim.Optimizer)
    if module == "torch.nn":
        return _is_subclass(getattr(nn, name, None), nn.Module)
    if module == "torchvision.models":
        from torchvision import models

        return name in models.list_models(module=models)
    return False


def _is_image_set(source: object) -> bool:
    from torchvision import datasets

    return isinstance(source, str) and source in datasets.__all__ and hasattr(getattr(datasets, source), "__mro__")


def _is_subclass(found: object, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)
