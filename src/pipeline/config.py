"""Configuration: dataclass schemas, the resolvers that make the rule visible, and where `conf/` lies.

The values stand in `conf/`; here are their names and types. Imports neither torch nor mlflow, so that
`--help` and `--cfg` answer at once.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline import scaling
from pipeline.errors import RequestError, request_error_behind


@dataclass
class Scaling:
    """A rule of `pipeline.scaling.RULES` and what it needs."""

    rule: str = MISSING
    base_batch: int = MISSING
    weight_decay: str = "fixed"
    exponent: float | None = None
    noise_scale: float | None = None


@dataclass
class Schedule:
    """The arguments of `pipeline.schedule.make_schedule`; what a schedule doesn't use stays null."""

    name: str = MISSING
    warmup_fraction: float | None = None
    warmup_epochs: float | None = None
    final_factor: float | None = None
    milestones: list[float] | None = None
    gamma: float | None = None


@dataclass
class Budget:
    """The arguments of `pipeline.budget.plan_training`; what a kind doesn't use stays null."""

    kind: str = MISSING
    epochs: float | None = None
    steps: int | None = None
    examples: int | None = None
    metric: str | None = None
    threshold: float | None = None
    eval_examples: int | None = None
    max_epochs: float | None = None


@dataclass
class Batching:
    """How a batch is formed: `micro_batch` is the most examples in one forward pass, `auto`, or null for all."""

    micro_batch: Any = "auto"


@dataclass
class NoiseScale:
    """When the gradient noise scale is measured (a list of evaluations), and on how many examples."""

    epochs: Any = field(default_factory=list)
    examples: int = MISSING


@dataclass
class Tracking:
    """Where runs are tracked and which checkpoints they keep."""

    uri: str = MISSING
    experiment: str = MISSING
    checkpoints: str = "best"
    log_model: str = "none"


@dataclass
class Runtime:
    """What a run computes on and in; `threads` is a number or `auto`."""

    device: str = "auto"
    threads: Any = "auto"
    precision: str = "auto"
    memory_format: str = "auto"
    workers: int = 1
    compile: bool = False


@dataclass
class Search:
    """The LR's search range: octaves either side of the rule's LR."""

    octaves: float = 5.0


@dataclass
class Sweep:
    """A sweep's name, and the MLflow run that its trials belong to."""

    name: str = MISSING
    parent: str | None = None


@dataclass
class Report:
    """The margin within which two losses count as equal: a share ("5%") or an absolute loss; and how it is judged."""

    margin: Any = "5%"
    confirm_seeds: int = 5
    looks: int = 1


@dataclass
class Config:
    """The whole tree. Nodes with a `_target_` are untyped: their builders check the values."""

    batch: int = MISSING
    seed: int = 0
    resume: str | None = None
    objective: str = "val/loss"
    dataset: Any = MISSING
    model: Any = MISSING
    optimizer: Any = MISSING
    scaling: Scaling = field(default_factory=Scaling)
    schedule: Schedule = field(default_factory=Schedule)
    budget: Budget = field(default_factory=Budget)
    batching: Batching = field(default_factory=Batching)
    noise_scale: NoiseScale = field(default_factory=NoiseScale)
    tracking: Tracking = field(default_factory=Tracking)
    runtime: Runtime = field(default_factory=Runtime)
    search: Search = field(default_factory=Search)
    sweep: Sweep = field(default_factory=Sweep)
    report: Report = field(default_factory=Report)


SCHEMA = "schema.yaml"


def register() -> None:
    """Make the schema and the resolvers known to Hydra and OmegaConf; safe to call again."""
    if SCHEMA in ConfigStore.instance().repo and OmegaConf.has_resolver("trials_at_once"):
        return  # every trial of a sweep asks, and making a node of the schema takes 20 ms
    ConfigStore.instance().store(name=SCHEMA, node=Config)
    resolvers: dict[str, Callable[..., Any]] = {
        "scaled_lr": scaled_lr,
        "scaled_betas": scaled_betas,
        "scaled_eps": scaled_eps,
        "scaled_weight_decay": scaled_weight_decay,
        "sweep_name": sweep_name,
        "trials_at_once": trials_at_once,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def conf_dir() -> str:
    """Absolute path of `conf/`: the copy inside a wheel, else the one at the top of the checkout."""
    package = Path(__file__).resolve().parent
    inside_wheel = package / "conf"
    return str(inside_wheel if inside_wheel.is_dir() else package.parents[1] / "conf")


def trials_at_once(workers: Any, threads: Any) -> int:
    """`${trials_at_once:WORKERS,THREADS}`: how many runs of so many processes and threads fit on the cores here.

    -1, joblib's word for all, where each takes one: it knows a container's quota, too.
    """
    each = max(1, workers if isinstance(workers, int) else 1) * max(1, threads if isinstance(threads, int) else 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return -1 if each == 1 else max(1, cores // each)


def scaled_lr(octaves: float = 0, *, _root_: DictConfig) -> float:
    """`${scaled_lr:}`: the LR by the configured rule; with an argument, that many octaves (×2) above it."""
    root = _root_
    optimizer = root.optimizer
    if root.scaling.rule == "adam_sde" and "base_betas" not in optimizer:
        raise RequestError(
            f"scaling=adam_sde changes Adam's betas, and {optimizer.get('_target_')} has none (no base_betas)."
            "\nUse optimizer=adam or adamw, or another rule."
        )
    if "base_lr" not in optimizer:
        raise RequestError("optimizer.base_lr is not set, so no rule can scale it.\nSet it, or optimizer.lr itself.")
    scaled_betas(_root_=root)  # a batch for which no β exists must not get an LR either
    if octaves:
        scaling.check_positive("search.octaves", root.search.octaves)
    scale = root.scaling
    lr = scaling.scale_lr(
        scale.rule,
        optimizer.base_lr,
        scale.base_batch,
        root.batch,
        exponent=scale.exponent,
        noise_scale=scale.noise_scale,
    )
    return lr * 2 ** float(octaves)


def scaled_betas(*, _root_: DictConfig) -> ListConfig:
    """`${scaled_betas:}`: Adam's betas by the configured rule (a plain list could not be resolved in place)."""
    root = _root_
    betas = tuple(root.optimizer.get("base_betas", ()))
    return ListConfig(list(scaling.scale_betas(root.scaling.rule, betas, root.scaling.base_batch, root.batch)))


def scaled_eps(*, _root_: DictConfig) -> float:
    """`${scaled_eps:}`: Adam's epsilon by the configured rule."""
    root = _root_
    return scaling.scale_eps(root.scaling.rule, root.optimizer.base_eps, root.scaling.base_batch, root.batch)


def scaled_weight_decay(*, _root_: DictConfig) -> float:
    """`${scaled_weight_decay:}`: weight decay by `scaling.weight_decay`."""
    root = _root_
    scale = root.scaling
    return scaling.scale_weight_decay(
        scale.weight_decay, root.optimizer.base_weight_decay, _factor_at(root), scale.base_batch, root.batch
    )


def _factor_at(root: DictConfig) -> float:
    scale = root.scaling
    return scaling.scale_factor(
        scale.rule, scale.base_batch, root.batch, exponent=scale.exponent, noise_scale=scale.noise_scale
    )


# What may differ between the runs of one sweep, or says nothing about the workload.
_NOT_WORKLOAD = ("batch", "seed", "hydra", "noise_scale", "tracking", "runtime", "report", "sweep", "resume")


def sweep_name(*, _root_: DictConfig) -> str:
    """`${sweep_name:}`: the workload, and a digest of its resolved configuration at the base batch.

    More batches, seeds or trials extend the same sweep; another configuration is another sweep.
    """
    resolved = workload_config(_root_)
    digest = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:8]
    parts = [resolved["dataset"].get("name", "data")]
    parts += [str(resolved[node].get("_target_", node)).rsplit(".", 1)[-1].lower() for node in ("model", "optimizer")]
    return "-".join([*parts, digest])


def workload_config(root: DictConfig) -> dict[str, Any]:
    """The resolved configuration at the base batch, without what may differ between runs of one sweep."""
    copy = OmegaConf.create({key: root._get_node(key) for key in root if key not in _NOT_WORKLOAD})
    with open_dict(copy):
        copy.batch = root.scaling.base_batch
        copy.optimizer.pop("lr", None)
    resolved = OmegaConf.to_container(copy, resolve=True)
    assert isinstance(resolved, dict)
    del resolved["batch"]
    return {str(key): value for key, value in resolved.items()}


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The configuration with every interpolation resolved, as plain Python containers.

    Raises:
        RequestError: a mandatory value is missing, or a rule refused its input.
    """
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise RequestError(f"{key} is not set, and has no default.\nSet it: {key}=VALUE.") from None
    except OmegaConfBaseException as error:
        if (request_error := request_error_behind(error)) is None:
            raise
        raise request_error from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def as_yaml(config: dict[str, Any]) -> str:
    """`OmegaConf.to_yaml` of a resolved configuration, without making an OmegaConf tree of it first (3 ms a trial)."""
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
