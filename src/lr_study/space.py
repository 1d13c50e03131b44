"""From overrides to cells: choices multiply, intervals become dimensions, trials take the replicates in turn."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf

from lr_study.errors import SweepRequestError
from lr_study.masking import mask_tree

_ABSENT = "(absent)"


@dataclass(frozen=True)
class Dimension:
    """An interval to search: `low` … `high`, on a log scale or not, of whole numbers or not."""

    key: str
    low: float
    high: float
    log: bool
    integer: bool

    def __str__(self) -> str:
        """As Hydra writes it: `tag(log,interval(0.01,1.0))`."""
        kind = int if self.integer else float
        interval = f"interval({kind(self.low)},{kind(self.high)})"
        return f"tag(log,{interval})" if self.log else interval


@dataclass(frozen=True)
class Cell:
    """One combination of everything that is swept by choice.

    Attributes:
        name: such as `batch=256,optimizer=sgd`; empty where nothing is swept by choice.
        overrides: (key, text) of its overrides as they were given, without dimensions and replicate.
        choices: the keys that differ between cells, and their values here.
        config: its composed configuration, with the `hydra` node.
        identity: the part of its configuration that makes another study; see `identity`.
        dimensions: what is searched in it.
        start: the configured value of each dimension, where it lies in the interval. It is tried first.
    """

    name: str
    overrides: tuple[tuple[str, str], ...]
    choices: Mapping[str, str]
    config: DictConfig
    identity: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]
    start: Mapping[str, float]


@dataclass(frozen=True)
class Request:
    """A requested sweep: its cells, and the values of the replicate key, or (None,)."""

    cells: tuple[Cell, ...]
    replicates: tuple[str | None, ...]

    @property
    def searches(self) -> bool:
        """Whether any cell has an interval."""
        return any(cell.dimensions for cell in self.cells)


def read_request(config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> Request:
    """Work out the cells of a sweep, and compose each, so that errors show before the sweep starts.

    Raises:
        SweepRequestError: an interval is empty, or its key doesn't exist.
        HydraException, OmegaConfBaseException: a cell can't be composed.
    """
    parser = OverridesParser.create(config_loader=loader)
    options = config.hydra.sweeper
    given = {override.key_or_group: override for override in parser.parse_overrides(list(arguments))}
    params = {key: override for key, override in _from_params(parser, config) if key not in given}
    overrides = {**params, **given}
    replicates = _replicates(overrides.pop(options.replicate_key, None))
    searched = [key for key, override in overrides.items() if _is_interval(override)]
    axes = {key: _choices(override) for key, override in overrides.items() if key not in searched}
    may_change = (*options.may_change, options.replicate_key or "hydra")
    cells = []
    for combination in itertools.product(*axes.values()):
        texts = [text for _, text in combination]
        composed = loader.load_sweep_config(config, texts)
        chosen = {key: value for key, (value, _) in zip(axes, combination, strict=True) if len(axes[key]) > 1}
        choices = {key: OmegaConf.select(composed, key) for key in options.cell_keys if key not in chosen} | chosen
        cell_params = dict(_from_params(parser, composed))
        dimensions = tuple(_dimension(key, given.get(key) or cell_params[key], composed) for key in searched)
        cells.append(
            Cell(
                name=",".join(f"{key}={value}" for key, value in choices.items()),
                overrides=tuple(zip(axes, texts, strict=True)),
                choices={key: str(value) for key, value in choices.items()},
                config=composed,
                identity=identity(composed, may_change, [dimension.key.lstrip("+") for dimension in dimensions]),
                dimensions=dimensions,
                start=_start(dimensions, composed),
            )
        )
    return Request(tuple(cells), replicates)


def _from_params(parser: OverridesParser, config: DictConfig) -> Iterator[tuple[str, Override]]:
    """The parsed entries of `hydra.sweeper.params`, resolved in `config`."""
    for key, value in (config.hydra.sweeper.params or {}).items():
        plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        (override,) = parser.parse_overrides([f"{key}={'null' if plain is None else plain}"])
        yield override.key_or_group, override


def _is_interval(override: Override) -> bool:
    return override.is_sweep_override() and not override.is_discrete_sweep()


def _choices(override: Override) -> list[tuple[str, str]]:
    """(value, override text) of each value of an override."""
    if not override.is_sweep_override():
        assert override.input_line is not None
        return [("", override.input_line)]
    key = override.get_key_element()
    values = list(dict.fromkeys(override.sweep_string_iterator()))
    if not values:
        raise SweepRequestError(f"{override.input_line}: no values to choose from.")
    return [(value.strip("'\""), f"{key}={value}") for value in values]


def _replicates(override: Override | None) -> tuple[str | None, ...]:
    if override is None:
        return (None,)
    if not override.is_sweep_override():
        return (override.get_value_element_as_str(),)
    if _is_interval(override):
        raise SweepRequestError(f"{override.input_line}: replicates are listed, not searched.\nWrite seed=0,1,2.")
    return tuple(value for value, _ in _choices(override))


def _dimension(key: str, override: Override, config: DictConfig) -> Dimension:
    sweep = override.value()
    if not isinstance(sweep, IntervalSweep):
        raise SweepRequestError(f"{override.input_line}: an interval in one cell must be one in all cells.")
    if OmegaConf.select(config, key, default=_ABSENT, throw_on_missing=False) is _ABSENT and not override.is_add():
        raise SweepRequestError(
            f"{override.input_line}: there is no key {key}.\nTo add one write +{override.input_line}."
        )
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if low is None or high is None or not low < high:
        raise SweepRequestError(f"{override.input_line}: an interval goes from a smaller to a larger number.")
    if log and low <= 0:
        raise SweepRequestError(f"{override.input_line}: an interval on a log scale starts above 0.")
    integer = isinstance(low, int) and isinstance(high, int)
    return Dimension(override.get_key_element(), low, high, log, integer)


def _start(dimensions: Sequence[Dimension], config: DictConfig) -> dict[str, float]:
    start: dict[str, Any] = {}
    for dimension in dimensions:
        value = OmegaConf.select(config, dimension.key.lstrip("+"), throw_on_missing=False)
        if isinstance(value, int | float) and dimension.low <= value <= dimension.high:
            start[dimension.key] = value
    return start


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
