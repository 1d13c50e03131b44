"""The interpolations of `conf/` that are computed: `${scaled_lr:}` and its like, and a sweep's name.

So the composed configuration shows the numbers that are used (`--cfg job --resolve`), and a value given on the command
line replaces them: nothing is scaled twice.
"""

import hashlib
import json
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from lr_study import available_cores
from pipeline.errors import RequestError
from pipeline.recipe.checks import check_positive
from pipeline.recipe.scaling import Scaling, find_rule, scale_betas, scale_eps, scale_lr, scale_weight_decay

# Keys that may differ between the runs of one sweep, or say nothing about the workload.
NOT_WORKLOAD = ("batch", "seed", "hydra", "noise_scale", "tracking", "runtime", "report", "sweep", "resume")


def register_resolvers() -> None:
    """Make the resolvers known to OmegaConf."""
    for resolver in (scaled_lr, scaled_betas, scaled_eps, scaled_weight_decay, sweep_name, trials_at_once):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def scaled_lr(octaves: float = 0, *, _root_: DictConfig) -> float:
    """`${scaled_lr:}`: the LR by the configured rule; with an argument, that many octaves (factors of two) above it."""
    optimizer = _root_.optimizer
    rule = _root_.scaling.rule
    if find_rule(rule).scales_adam and "base_betas" not in optimizer:
        raise RequestError(
            f"scaling={rule} changes Adam's betas, and {optimizer.get('_target_')} has none (no base_betas)."
            "\nUse optimizer=adam or adamw, or another rule."
        )
    if "base_lr" not in optimizer:
        raise RequestError("optimizer.base_lr is not set, so no rule can scale it.\nSet it, or optimizer.lr itself.")
    scaled_betas(_root_=_root_)  # refuses a batch for which no β exists: it must not get an LR either
    if octaves:
        check_positive("search.octaves", _root_.search.octaves)
    return scale_lr(_scaling(_root_), optimizer.base_lr, _root_.batch) * 2 ** float(octaves)


def _scaling(root: DictConfig) -> Scaling:
    """The group `scaling`, without keys that it doesn't have: these are refused once all is composed."""
    return Scaling(**{field.name: root.scaling[field.name] for field in fields(Scaling)})


def scaled_betas(*, _root_: DictConfig) -> ListConfig:
    """`${scaled_betas:}`: Adam's betas by the configured rule (OmegaConf can't resolve a plain list in place)."""
    betas = _root_.optimizer.get("base_betas", ())
    return ListConfig(list(scale_betas(_scaling(_root_), betas, _root_.batch)))


def scaled_eps(*, _root_: DictConfig) -> float:
    """`${scaled_eps:}`: Adam's epsilon by the configured rule."""
    return scale_eps(_scaling(_root_), _root_.optimizer.base_eps, _root_.batch)


def scaled_weight_decay(*, _root_: DictConfig) -> float:
    """`${scaled_weight_decay:}`: weight decay by `scaling.weight_decay`."""
    return scale_weight_decay(_scaling(_root_), _root_.optimizer.base_weight_decay, _root_.batch)


def sweep_name(*, _root_: DictConfig) -> str:
    """`${sweep_name:}`: the workload, and a digest of its resolved configuration at the base batch.

    More batches, seeds or trials extend the same sweep; another configuration is another sweep.
    """
    # The workload at the base batch, without what may differ between runs of one sweep.
    copy = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key not in NOT_WORKLOAD])
    with open_dict(copy):
        copy.batch = _root_.scaling.base_batch
        copy.optimizer.pop("lr", None)
    resolved = OmegaConf.to_container(copy, resolve=True)
    assert isinstance(resolved, dict)
    del resolved["batch"]
    resolved["scaling"].pop("base_lr_tuned", None)  # it decides what the report says, not what is trained
    digest = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:8]
    parts = [resolved["dataset"].get("name", "data")]
    parts += [str(resolved[node].get("_target_", node)).rsplit(".", 1)[-1].lower() for node in ("model", "optimizer")]
    return "-".join([*parts, digest])


def trials_at_once(workers: Any, threads: Any) -> int:
    """`${trials_at_once:WORKERS,THREADS}`: how many runs of so many processes and threads fit on the cores here.

    Where each takes one core it is -1, joblib's word for all of them, since joblib knows a container's quota.
    """
    each = max(1, workers if isinstance(workers, int) else 1) * max(1, threads if isinstance(threads, int) else 1)
    return -1 if each == 1 else max(1, available_cores() // each)
