"""What a logged configuration may be, and may have built: data from a server must not be a way in.

Hydra's `_target_` calls whatever it names. A configuration that somebody typed may name anything; one that comes out
of a tracking store may name only what is listed here one by one, for much of any package can be made to run code.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

from pipeline.errors import RequestError

# The largest configuration that is looked at, in characters and in levels; ours have some two thousand, and four.
LONGEST = 200_000
DEEPEST = 20
LARGEST_INTEGER = 2**63
# torchvision's data sets that conf/dataset/ has: others read or unpickle in ways that nobody here looked at.
IMAGE_SETS = ("CIFAR10", "FashionMNIST", "KMNIST", "MNIST")
# Arguments by which torchvision's models download weights and unpickle them; also as the first positional one.
DOWNLOADS = ("weights", "pretrained", "_args_")


def parse_logged(text: str) -> dict[str, Any]:
    """The configuration in a logged `config.yaml`, as plain data: nothing in it is resolved or built.

    Raises:
        RequestError: it is no plain, resolved configuration.
    """
    import yaml

    try:
        _check_shape(text)
        config = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(f"config/config.yaml can't be read: {reason}.") from None
    if not isinstance(config, dict) or not _has_names(config):
        raise RequestError("config/config.yaml is not a configuration: it was not written by this project, or edited.")
    for key, leaf in _leaves(config):
        if isinstance(leaf, str) and "${" in leaf:
            raise RequestError(f"config/config.yaml has ${{…}} in {key}, which is not looked up where it was logged.")
        if not _is_plain(leaf):
            raise RequestError(f"config/config.yaml has a value in {key} that a configuration never has.")
    return config


def check_trusted(config: dict[str, Any], trusted: Collection[str] = ()) -> None:
    """Refuse whatever in `config` builds or reads what is neither listed here nor among the names in `trusted`.

    Raises:
        RequestError: the first such name.
    """
    for key, value in _leaves(config):
        if "_target_" in key.split(".") and value not in trusted and not _is_listed(value):
            raise RequestError(
                f"{key}={shown(value)}: not built from a logged configuration, since it could be anything."
                f"\nIf you know it and trust it: --trust {shown(value)}."
            )
    for key, node in _nodes(config):
        if str(node.get("_target_")).startswith("torchvision.models.") and node["_target_"] not in trusted:
            _check_no_download(key, node)
    dataset = config.get("dataset")
    source = dataset.get("source") if isinstance(dataset, dict) else None
    if source is not None and source not in IMAGE_SETS and not (source in trusted and _is_image_set(source)):
        raise RequestError(
            f"dataset.source={shown(source)}: none of {', '.join(IMAGE_SETS)}, which a logged configuration may read."
            f"\nIf you know torchvision's {shown(source)} and trust it: --trust {shown(source)}."
        )


def shown(value: object) -> str:
    """A logged value as a message has it: not longer than a line."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _check_shape(text: str) -> None:
    """Raise ValueError for what may grow without end, and for values that are told by a tag what they are."""
    import yaml

    if len(text) > LONGEST:
        raise ValueError("far too long")
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError("with references, or nested far too deep")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"with the tag {shown(event.tag)}")


def _has_names(tree: object) -> bool:
    """Whether every key in `tree` is a text."""
    if isinstance(tree, dict):
        return all(isinstance(key, str) and key.isprintable() and _has_names(value) for key, value in tree.items())
    return all(map(_has_names, tree)) if isinstance(tree, list) else True


def _is_plain(leaf: object) -> bool:
    """Whether a value is one that configurations have: nothing that can't be shown, and no number without end."""
    if isinstance(leaf, str):
        return re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", leaf) is None
    if isinstance(leaf, int):
        return abs(leaf) < LARGEST_INTEGER
    return leaf is None or isinstance(leaf, float)


def _leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _leaves(value, f"{path}.{number}")
    else:
        yield path, tree


def _nodes(tree: object, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(tree, dict):
        yield path, tree
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from _nodes(value, f"{path}.{key}" if path else str(key))


def _check_no_download(key: str, node: dict[str, Any]) -> None:
    for name, value in node.items():
        if name.startswith(DOWNLOADS) and value not in (None, False, []):
            raise RequestError(
                f"{key}.{name}={shown(value)}: a logged configuration may not have weights downloaded and unpickled."
                f"\nIf you know them, and trust them: --trust {node['_target_']}."
            )


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
