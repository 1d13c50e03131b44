"""From `conf/` to a resolved configuration. Imports neither torch nor mlflow: `--help` and `--cfg` answer at once."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.config.resolvers import register_resolvers
from pipeline.config.schema import Config
from pipeline.errors import RequestError, request_error_behind

SCHEMA = "schema.yaml"


def register() -> None:
    """Make the schema and the resolvers known to Hydra and OmegaConf; safe to call again."""
    if SCHEMA in ConfigStore.instance().repo and OmegaConf.has_resolver("trials_at_once"):
        return  # every trial of a sweep calls this, and building the schema takes 20 ms
    ConfigStore.instance().store(name=SCHEMA, node=Config)
    register_resolvers()


def conf_dir() -> str:
    """Absolute path of `conf/`: the copy inside a wheel, else the one at the top of the checkout."""
    inside_wheel = Path(__file__).resolve().parents[1] / "conf"
    return str(inside_wheel if inside_wheel.is_dir() else inside_wheel.parents[2] / "conf")


def resolve(cfg: DictConfig) -> Config:
    """The configuration with every interpolation resolved.

    Raises:
        RequestError: a mandatory value is missing, or a rule refused its input.
    """
    try:
        config = OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise RequestError(f"{key} is not set, and has no default.\nSet it: {key}=VALUE.") from None
    except OmegaConfBaseException as error:
        if (request_error := request_error_behind(error)) is None:
            raise
        raise request_error from None
    assert isinstance(config, Config)
    return config


def as_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain containers, for params, YAML and JSON."""
    return asdict(config)


def from_dict(tree: dict[str, Any]) -> Config:
    """A configuration from plain containers, whose keys and types are checked against the schema.

    Raises:
        RequestError: a mandatory value is missing.
        OmegaConfBaseException: a key or a type is not the schema's.
    """
    register()
    merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(tree))
    assert isinstance(merged, DictConfig)
    return resolve(merged)


def as_yaml(config: dict[str, Any]) -> str:
    """`OmegaConf.to_yaml` of plain containers, without building an OmegaConf tree first (3 ms a trial)."""
    return yaml.dump(
        config, Dumper=get_omega_conf_dumper(), default_flow_style=False, allow_unicode=True, sort_keys=False
    )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to leaves: `{"optimizer": {"lr": 1}}` becomes `{"optimizer.lr": 1}`; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def walk(tree: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in plain containers, dicts and lists among them, with its dotted key."""
    yield path, tree
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield from walk(value, f"{path}.{key}" if path else str(key))
