"""A job's configuration without composing it: its cell's own, with a few values changed.

Composing takes 0.1 s, most of what a short trial costs beside its training; and a study's trials differ in a few values
only.
"""

import contextlib
import os
import pickle
from collections.abc import Iterable
from typing import Any

import cloudpickle
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lr_study.space import Cell, Request

# The most bytes of composed cells that travel to the workers with each job.
MOST_BYTES = 1_000_000


class CellLoader:
    """Hydra's `loader`, with a short way for jobs that are a known cell with other values."""

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._known: dict[tuple[str, ...], bytes] = {}
        self._composed: dict[tuple[str, ...], bytes] = {}

    def know(self, cells: Iterable[Cell]) -> None:
        """Take the next jobs' cells, up to `MOST_BYTES`; a cell may come again."""
        self._composed = {}
        size = 0
        for cell in {cell.name: cell for cell in cells}.values():
            key = tuple(text for _, text in cell.overrides)
            if key not in self._known:
                # A schema may be a class of the app's own script, which workers can't import by its name.
                self._known[key] = cloudpickle.dumps(cell.config)
            size += len(self._known[key])
            if size <= MOST_BYTES:
                self._composed[key] = self._known[key]

    def __getstate__(self) -> dict[str, Any]:
        # Workers get the running wave's cells only.
        return {"_loader": self._loader, "_known": {}, "_composed": self._composed}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """A job's configuration, equal to what Hydra's loader would compose."""
        for length in range(len(sweep_overrides), -1, -1):
            composed = self._composed.get(tuple(sweep_overrides[:length]))
            if composed is not None:
                config = _with_values(pickle.loads(composed), sweep_overrides[length:])
                if config is not None:
                    OmegaConf.copy_cache(from_config=master_config, to_config=config)
                    return config
                break
        return self._loader.load_sweep_config(master_config, sweep_overrides)

    def __getattr__(self, name: str) -> Any:
        """Hydra's loader does everything else."""
        if name.startswith("__"):  # looked up by pickle, before there is a loader
            raise AttributeError(name)
        return getattr(self._loader, name)


def replicate_values(loader: ConfigLoader, master_config: DictConfig, request: Request) -> list[Any]:
    """The values that the replicate key takes in turn, each of its key's type; none where there are no replicates.

    Raises:
        HydraException, OmegaConfBaseException: one of them can't be the value of its key.
    """
    key, cell = master_config.hydra.sweeper.replicate_key, request.cells[0]
    texts = [f"{key}={replicate}" for replicate in request.replicates if replicate is not None]
    config, values = cell.config.copy(), []
    for text, override in zip(texts, OverridesParser.create().parse_overrides(texts), strict=True):
        with contextlib.suppress(OmegaConfBaseException):
            if _is_value(override, config):
                OmegaConf.update(config, key, override.value())
                values.append(OmegaConf.select(config, key))
                continue
        # Hydra can do more, and says best what is wrong.
        composed = loader.load_sweep_config(master_config, [*(given for _, given in cell.overrides), text])
        values.append(OmegaConf.select(composed, key))
    return values


def _with_values(config: DictConfig, overrides: list[str]) -> DictConfig | None:
    """`config` with further overrides applied, or None where one of them is more than a new value."""
    hydra = config.hydra
    task = OverridesParser.create().parse_overrides([*hydra.overrides.task, *overrides])
    for override in task[len(hydra.overrides.task) :]:
        if not _is_value(override, config):
            return None
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        hydra.overrides.task.append(override.input_line)
    # What Hydra reads from the process that composes comes here from the one that runs the job.
    hydra.runtime.cwd = os.getcwd()
    for key in hydra.job.env_copy:
        hydra.job.env_set[key] = os.environ[key]
    options = hydra.job.config.override_dirname
    lines = [str(override.input_line) for override in task if override.key_or_group not in options.exclude_keys]
    hydra.job.override_dirname = options.item_sep.join(sorted(lines)).replace("=", options.kv_sep)
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
    present: Any = OmegaConf.to_container(OmegaConf.masked_copy(parent, name))  # its interpolation isn't resolved
    return not isinstance(present[name], dict | list) and not isinstance(override.value(), dict | list)
