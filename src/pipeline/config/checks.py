"""Checks of a resolved configuration that need neither torch nor data, so that they come first."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.config.compose import walk
from pipeline.config.schema import Config, Confirm, NoiseScale
from pipeline.errors import RequestError
from pipeline.recipe import budget, schedule
from pipeline.recipe.checks import check_batch, check_positive
from pipeline.recipe.scaling import RULES

log = logging.getLogger("pipeline.config")
PRECISIONS = ("auto", "fp32", "bf16")
MEMORY_FORMATS = ("auto", "contiguous", "channels_last")
# The keys by which Hydra's `instantiate` is told what to do: which values each may have, and how to say so.
INSTANTIATE_KEYS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "_target_": (lambda value: isinstance(value, str), "the name of a class or function"),
    "_args_": (lambda value: isinstance(value, list), "a list"),
    "_partial_": (lambda value: isinstance(value, bool), "true or false"),
    "_recursive_": (lambda value: isinstance(value, bool), "true or false"),
    "_convert_": (lambda value: value in ("none", "partial", "object", "all"), "none, partial, object or all"),
}


def check_request(config: Config) -> None:
    """Raise RequestError for the first value in the resolved `config` that can't be right."""
    _check_instantiate_keys({"dataset": config.dataset, "model": config.model, "optimizer": config.optimizer})
    check_batch("batch", config.batch)
    _check_replicates(config)
    if (lr := config.optimizer.get("lr")) is not None:
        check_positive("optimizer.lr", lr)
    if (base_lr := config.optimizer.get("base_lr")) is not None:
        check_positive("optimizer.base_lr", base_lr)
        if lr is None:
            raise RequestError(
                f"optimizer.base_lr={base_lr} is set, but optimizer.lr is not, so the scaling rule has no effect."
                "\nAdd lr: ${scaled_lr:} to the optimizer's group."
            )
    _check_choice("scaling.rule", config.scaling.rule, RULES)
    _check_choice("objective", config.objective, budget.TARGET_METRICS)
    _check_choice("tracking.checkpoints", config.tracking.checkpoints, ("best", "last", "both", "none"))
    if config.resume is not None:
        _check_choice("resume", config.resume, ("auto",))
    _check_choice("tracking.log_model", config.tracking.log_model, ("none", "best"))
    _check_choice("budget.kind", config.budget.kind, budget.KEYS)
    _check_choice("schedule.name", config.schedule.name, schedule.SCHEDULES)
    _check_micro_batch(config.batching.micro_batch)
    _check_choice("runtime.precision", config.runtime.precision, PRECISIONS)
    _check_choice("runtime.memory_format", config.runtime.memory_format, MEMORY_FORMATS)
    _check_workers(config.runtime.workers, config.batch)
    _check_noise_scale(config.noise_scale)
    check_positive("search.octaves", config.search.octaves)
    parse_margin(config.report.margin)
    _check_confirm(config.report.confirm)
    if config.scaling.base_lr_tuned and base_lr is None:
        raise RequestError("scaling.base_lr_tuned=true: there is no optimizer.base_lr that could be tuned.\nSet it.")


def _check_instantiate_keys(groups: dict[str, Any]) -> None:
    """Check them at any depth. Hydra itself ignores some wrong values, and raises a bare TypeError for others."""
    for key, value in walk(groups):
        is_allowed, allowed = INSTANTIATE_KEYS.get(key.rpartition(".")[2], (lambda value: True, ""))
        if not is_allowed(value):
            raise RequestError(f"{key}={value}: it must be {allowed}.")


def _check_micro_batch(value: object) -> None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if value not in (None, "auto") and not (is_number and value >= 1):  # type: ignore[operator]
        raise RequestError(
            f"batching.micro_batch={value}: it must be auto, null or a number of examples, a whole number from 1 up."
        )


def _check_workers(workers: int, batch: int) -> None:
    if workers < 1:
        raise RequestError(f"runtime.workers={workers}: it must be 1 or more.")
    if workers > batch:
        raise RequestError(
            f"runtime.workers={workers}: a batch of {batch} has no example for each.\nUse at most {batch} workers."
        )


def _check_replicates(config: Config) -> None:
    stack = config.runtime.stack
    if stack != "auto" and (isinstance(stack, str | bool) or stack < 1):
        raise RequestError(f"runtime.stack={stack}: it must be auto, or how many replicates train at once, from 1 up.")
    split_seed = config.dataset.get("split_seed", 0)
    if split_seed != "replicate" and (isinstance(split_seed, bool) or not isinstance(split_seed, int)):
        raise RequestError(f"dataset.split_seed={split_seed}: it must be replicate, or a whole number.")
    if len(config.seeds) == 1:
        return
    needs_one = {
        f"runtime.workers={config.runtime.workers}": config.runtime.workers > 1,
        f"resume={config.resume}": config.resume is not None,
        f"tracking.log_model={config.tracking.log_model}": config.tracking.log_model != "none",
    }
    for key, is_set in needs_one.items():
        if is_set:
            raise RequestError(f"{key} needs runs of one seed each, and this one has seed={config.seed}.")


def _check_confirm(confirm: Confirm) -> None:
    looks = confirm.looks
    if any(later <= earlier for earlier, later in zip([1, *looks], looks, strict=False)):
        raise RequestError(
            f"report.confirm.looks={looks}: these are numbers of pairs, each larger than the one before, from 2 up."
            "\nUse [12,24,48,96], or [] for no confirmation."
        )
    if looks and confirm.runs is not None and confirm.runs < 2 * looks[0]:
        raise RequestError(
            f"report.confirm.runs={confirm.runs}: the first look, of {looks[0]} pairs, takes {2 * looks[0]} or more."
            "\nRaise it, or use report.confirm.looks=[] for no confirmation."
        )
    if confirm.seconds is not None:
        check_positive("report.confirm.seconds", confirm.seconds)


def _check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise RequestError(f"{name}={value}: no such choice.\nChoose one of: {', '.join(allowed)}.")


def _check_noise_scale(asked: NoiseScale) -> None:
    """Check what needs neither budget nor data; the workload checks the rest."""
    if 0 in asked.epochs:
        raise RequestError(
            f"noise_scale.epochs={asked.epochs}: evaluations are whole numbers, 1 the first and -1 the last."
            "\nWrite a list of them, as noise_scale.epochs=[1,-1]; [] is never."
        )
    if asked.examples < 2:
        raise RequestError(
            f"noise_scale.examples={asked.examples}: a variance needs at least 2.\nUse 512, or a number near."
        )


def parse_margin(margin: str | float) -> tuple[float, bool]:
    """A margin as (number, whether it is a share of the best loss): "10%" is (0.1, True), 0.01 is (0.01, False)."""
    text = str(margin).strip()
    share = text.endswith("%")
    try:
        value = float(text.removesuffix("%")) / (100 if share else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise RequestError(
            f"report.margin={margin}: it must be a share of the best loss, as 10%, or a loss above 0, as 0.01."
        )
    return value, share


def warn_linear_adam(config: Config) -> None:
    """Warn where the linear rule is used with an adaptive optimizer."""
    if config.scaling.rule == "linear" and "base_betas" in config.optimizer:
        log.warning(
            "scaling=linear with %s: adaptive optimizers follow the square root more closely (scaling=sqrt).",
            config.optimizer["_target_"],
        )
