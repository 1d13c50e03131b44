"""From a resolved configuration to everything a run needs, or a clear refusal; nothing is written.

Shared by a single run, a sweep's trial and a sweep's check before it starts.
"""

import functools
import json
from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from pipeline.config import Config
from pipeline.data import Splits
from pipeline.data.stream import derive_seed, in_order
from pipeline.distributed.world import SINGLE_PROCESS, check_shareable
from pipeline.engine import NoiseSample, Runtime, World, arrange, chosen_micro_batch, set_up_runtime
from pipeline.engine.optimizer_calls import fused_where_it_can_be, keep_compiler_unimported
from pipeline.errors import RequestError
from pipeline.recipe.budget import TrainingPlan, plan_training
from pipeline.recipe.schedule import LRFactor, make_schedule


@dataclass(frozen=True)
class Workload:
    """Data, model, optimizer and plan of one run, built and checked against each other.

    `micro_batch` is the one that is used, never `auto`.
    """

    splits: Splits
    model: nn.Module
    optimizer: torch.optim.Optimizer
    plan: TrainingPlan
    schedule: LRFactor
    runtime: Runtime
    micro_batch: int | None
    noise_sample: NoiseSample


def build_workload(config: Config, in_sweep: bool, world: World = SINGLE_PROCESS) -> Workload:
    """Build what `config` describes, and check that the parts fit each other.

    Args:
        config: past `pipeline.config.check_request`.
        in_sweep: whether other trials run beside this run (it decides the automatic number of threads).
        world: the processes that train together.

    Raises:
        RequestError: something can't be built, or the parts don't fit each other.
    """
    asked, batch, seed = config.runtime, config.batch, config.seed
    runtime = set_up_runtime(asked.device, asked.threads, in_sweep, asked.precision, world, asked.compile)
    splits = load_data(config.dataset, runtime.device)
    plan = plan_training(config.budget, batch, len(splits.train))
    schedule = make_schedule(config.schedule, plan.total_steps, plan.steps_per_epoch)
    torch.manual_seed(derive_seed("weights", seed))
    model = _build("model", config.model)
    if not isinstance(model, nn.Module):
        raise RequestError(f"model._target_={config.model['_target_']} gives no torch.nn.Module.")
    if world.size > 1:
        check_shareable(model)
    # Lazy layers get their parameters in this check; only then can these be given a memory format.
    _check_fit(model.to(runtime.device), splits)
    model, runtime = arrange(model, runtime, asked.memory_format)
    micro_batch = chosen_micro_batch(
        config.batching.micro_batch, model, splits.train, runtime.device, batch, world, runtime.precision
    )
    noise_sample = NoiseSample(tuple(config.noise_scale.epochs), config.noise_scale.examples)
    _check_noise_sample(noise_sample, plan, splits, model, json.dumps([config.model, config.dataset]))
    # From here on dropout and the like draw from the seed, not from what making the weights left; each rank its own.
    torch.manual_seed(derive_seed("noise", seed, *([world.rank] if world.rank else [])))
    optimizer = build_optimizer(config.optimizer, model)
    return Workload(splits, model, optimizer, plan, schedule, runtime, micro_batch, noise_sample)


def load_data(dataset: dict[str, Any], device: torch.device) -> Splits:
    """Build the data set that the group `dataset` of a configuration describes.

    Raises:
        RequestError: it can't be had.
    """
    return _load_data(json.dumps(dataset), device)


@functools.lru_cache(maxsize=1)
def _load_data(node: str, device: torch.device) -> Splits:
    """The data set, kept for the next trial in the same process; the node comes as JSON to be hashable."""
    dataset = _build("dataset", json.loads(node), device=device)
    if not isinstance(dataset, Splits):
        raise RequestError(f"dataset._target_={json.loads(node)['_target_']} gives no pipeline.data.Splits.")
    return dataset


def build_optimizer(node: dict[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer over all of `model`'s parameters; `base_*` keys are the rule's and left out."""
    arguments = {key: value for key, value in node.items() if not key.startswith("base_")}
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise RequestError("model has no parameters to train.")
    partial = _build("optimizer", arguments | {"_partial_": True})
    keep_compiler_unimported()
    try:
        optimizer = fused_where_it_can_be(partial, parameters)
    except (TypeError, ValueError) as error:
        raise RequestError(f"optimizer: {node['_target_']} refuses its arguments: {error}.") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise RequestError(f"optimizer._target_={node['_target_']} gives no torch.optim.Optimizer.")
    return optimizer


def _build(name: str, node: dict[str, Any], **more: Any) -> Any:
    if not node.get("_target_"):
        raise RequestError(f"{name}._target_ is not set.\nSet it to a class or function: {name}._target_=package.Name.")
    try:
        return instantiate(node, _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, RequestError):
            raise cause from None
        if isinstance(cause, TypeError) and not node.get("_partial_"):
            raise RequestError(
                f"{name}: {node['_target_']} refuses its arguments: {cause}."
                f"\nChanging {name}._target_ alone keeps the old keys: start from {name}=custom, or delete them with "
                f"~{name}.KEY."
            ) from error
        raise RequestError(f"{name}._target_={node['_target_']}: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def _check_fit(model: nn.Module, splits: Splits) -> None:
    """One forward pass of two examples: do the images fit the model, and its output the classes?"""
    count = min(2, len(splits.train))
    images, _ = next(iter(splits.train.batches(in_order(count, count))))
    model.eval()
    try:
        # Not in inference mode, whose tensors can't be trained: lazy layers make their parameters here.
        with torch.no_grad():
            logits = model(images)
    except RuntimeError as error:
        shape = "×".join(map(str, images.shape[1:]))
        raise RequestError(
            f"model: images of {shape} do not fit it: {str(error).splitlines()[0]}."
            "\nUse another model, or set its input to ${dataset.shape}."
        ) from error
    if tuple(logits.shape) != (count, splits.classes):
        raise RequestError(
            f"model: its output for {count} images has shape {tuple(logits.shape)}, not ({count}, {splits.classes})."
            "\nIt must give one logit for each class: set its output to ${dataset.classes}."
        )


# Networks, as they were asked for, whose per-example gradients were taken in this process: trials ask again and again.
_differentiated: set[str] = set()


def _check_noise_sample(sample: NoiseSample, plan: TrainingPlan, splits: Splits, model: nn.Module, asked: str) -> None:
    """Has the budget the evaluations, the training split the examples, and the model `asked` for such gradients?"""
    if not sample.epochs:
        return
    evaluations, examples = len(plan.evaluation_steps), len(splits.train)
    for epoch in sample.epochs:
        if abs(epoch) > evaluations:
            raise RequestError(
                f"noise_scale.epochs: {epoch} lies beyond the budget's evaluations, of which there are {evaluations}."
                f"\nUse 1 to {evaluations}, or -1 to -{evaluations} from the end."
            )
    if sample.examples > examples:
        raise RequestError(
            f"noise_scale.examples={sample.examples} is more than the training split of {examples} examples."
            f"\nUse 2 to {examples}."
        )
    if asked in _differentiated:
        return
    try:
        NoiseSample(examples=2).measure(model, splits.train, seed=0)
    except RuntimeError as error:
        raise RequestError(
            f"model: torch.func can't take its gradients example by example: {_reason(error)}."
            "\nUse noise_scale.epochs=[]; batching.micro_batch gives an estimate without them."
        ) from error
    _differentiated.add(asked)
