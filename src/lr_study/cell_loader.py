"""A job's configuration without composing it again: the cell's own, with a few values changed.

Composing takes a tenth of a second, most of what a short trial costs beside its training; and a study's trials
differ in a handful of values only.
"""

import os
import pickle
from collections.abc import Iterable
from typing import Any

import cloudpickle
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lr_study.space import Cell

# The most that composed cells may add to each job's own message to its worker, in bytes.
MOST_BYTES = 1_000_000


class CellLoader(ConfigLoader):
    """Hydra's loader, with a shorter way for jobs that are a known cell with other values.

    Args:
        loader: Hydra's own, for everything else.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._known: dict[tuple[str, ...], bytes] = {}
        self._composed: dict[tuple[str, ...], bytes] = {}

    def know(self, cells: Iterable[Cell]) -> None:
        """Take the next jobs' cells, as far as they may weigh; a cell may come again."""
        self._composed = {}
        weight = 0
        for cell in {cell.name: cell for cell in cells}.values():
            key = tuple(text for _, text in cell.overrides)
            if key not in self._known:
                # A schema may be a class of the app's own script, which workers can't import by its name.
                self._known[key] = cloudpickle.dumps(cell.config)
            weight += len(self._known[key])
            if weight <= MOST_BYTES:
                self._composed[key] = self._known[key]

    def __getstate__(self) -> dict[str, Any]:
        # Workers get the running wave's cells only.
        return {"_loader": self._loader, "_known": {}, "_composed": self._composed}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """A job's configuration: as Hydra's loader would compose it."""
        for length in range(len(sweep_overrides), -1, -1):
            composed = self._composed.get(tuple(sweep_overrides[:length]))
            if composed is not None:
                config = _with_values(pickle.loads(composed), sweep_overrides[length:])
                if config is not None:
                    OmegaConf.copy_cache(from_config=master_config, to_config=config)
                    return config
                break
        return self._loader.load_sweep_config(master_config, sweep_overrides)

    def load_configuration(self, *arguments: Any, **options: Any) -> DictConfig:
        """As Hydra's loader."""
        return self._loader.load_configuration(*arguments, **options)

    def get_search_path(self) -> Any:
        """As Hydra's loader."""
        return self._loader.get_search_path()

    def get_sources(self) -> Any:
        """As Hydra's loader."""
        return self._loader.get_sources()

    def list_groups(self, parent_name: str) -> list[str]:
        """As Hydra's loader."""
        return self._loader.list_groups(parent_name)

    def get_group_options(self, *arguments: Any, **options: Any) -> list[str]:
        """As Hydra's loader."""
        return self._loader.get_group_options(*arguments, **options)

    def compute_defaults_list(self, *arguments: Any, **options: Any) -> Any:
        """As Hydra's loader."""
        return self._loader.compute_defaults_list(*arguments, **options)


def _with_values(config: DictConfig, overrides: list[str]) -> DictConfig | None:
    """`config` with further overrides applied, or None where one of them is more than a new value."""
    from hydra._internal.config_loader_impl import get_overrides_dirname

    parser = OverridesParser.create()
    for override in parser.parse_overrides(overrides):
        if not _is_value(override, config):
            return None
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        config.hydra.overrides.task.append(override.input_line)
    hydra = config.hydra
    # What Hydra notes of the process that composes, it notes here of the one that runs the job.
    hydra.runtime.cwd = os.getcwd()
    for key in hydra.job.env_copy:
        hydra.job.env_set[key] = os.environ[key]
    name = hydra.job.config.override_dirname
    hydra.job.override_dirname = get_overrides_dirname(
        overrides=parser.parse_overrides(list(hydra.overrides.task)),
        kv_sep=name.kv_sep,
        item_sep=name.item_sep,
        exclude_keys=name.exclude_keys,
    )
    return config


def _is_value(override: Override, config: DictConfig) -> bool:
    """Whether an override gives a new plain value to a key that has one."""
    plain = override.type is not None and override.type.name == "CHANGE"
    if not plain or override.package is not None or override.is_hydra_override():
        return False
    parent_key, _, name = override.key_or_group.rpartition(".")
    parent = OmegaConf.select(config, parent_key, throw_on_missing=False) if parent_key else config
    if not isinstance(parent, DictConfig) or name not in list(parent):
        return False
    return not OmegaConf.is_config(parent._get_node(name)) and not isinstance(override.value(), dict | list)
