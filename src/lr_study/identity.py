"""A cell's identity: the configuration that its study belongs to, and how another configuration differs from it."""

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lr_study.masking import mask_tree

_ABSENT = "(absent)"


def identity(config: DictConfig, may_change: Iterable[str], swept: Iterable[str]) -> dict[str, Any]:
    """A cell's configuration as flat plain values, without keys that may differ between two commands of one sweep.

    It is kept in the storage. So interpolations are not resolved, since they may refer to an environment variable with
    a password, and passwords in addresses are masked.

    Args:
        config: composed, with the `hydra` node.
        may_change: dotted keys that are left out, with all keys below them.
        swept: keys of dimensions and replicates, which are left out too.
    """
    left_out = ("hydra", *may_change, *swept)
    # Without the hydra node, which is large and would be thrown away.
    kept = [str(key) for key in config if key not in left_out]
    tree = OmegaConf.to_container(OmegaConf.masked_copy(config, kept))
    flat = dict(_flatten(mask_tree(tree), ""))
    return {key: value for key, value in flat.items() if not any(_is_under(key, other) for other in left_out)}


def difference(old: Mapping[str, Any], new: Mapping[str, Any], may_change: Iterable[str]) -> list[str]:
    """Say `key: old, now new` for every key that differs but may not."""
    return [
        f"{key}: {old.get(key, _ABSENT)}, now {new.get(key, _ABSENT)}"
        for key in sorted({*old, *new})
        if old.get(key, _ABSENT) != new.get(key, _ABSENT) and not any(_is_under(key, other) for other in may_change)
    ]


def _flatten(tree: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flatten(value, f"{prefix}{key}.")
    else:
        plain = tree if isinstance(tree, bool | int | float | str | None) else str(tree)
        yield prefix[:-1], plain


def _is_under(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")
