"""Everything that a run needs, built from its configuration and checked; nothing is written.

A single run, a sweep's trial and a sweep's preflight all build their workload here.
"""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lr_study import reason_of
from pipeline.config import Config
from pipeline.data import Splits
from pipeline.data.stream import derive_seed
from pipeline.distributed.data_parallel import check_shareable
from pipeline.distributed.world import SINGLE_PROCESS
from pipeline.engine import FitResult, NoiseSample, Runtime, World, arrange, chosen_micro_batch, fit, set_up_runtime
from pipeline.errors import RequestError
from pipeline.recipe.budget import TrainingPlan, plan_training
from pipeline.recipe.schedule import LRFactor, make_schedule
from pipeline.run.build import build_data, build_model, build_optimizer
from pipeline.run.trial_passes import check_evaluation_pass, check_training_passes


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

    def fit(self, config: Config, **more: Any) -> FitResult:
        """Train it by `pipeline.engine.fit`; `more` are further arguments of that function."""
        return fit(
            *(self.model, self.optimizer, self.splits, self.plan, self.schedule),
            batch=config.batch,
            seed=config.seeds[0],
            micro_batch=self.micro_batch,
            precision=self.runtime.precision,
            compiled=self.runtime.compiled,
            world=self.runtime.world,
            **more,
        )


def build_workload(config: Config, in_sweep: bool, world: World = SINGLE_PROCESS) -> Workload:
    """Build what `config`, which `check_request` has passed, describes; check that the parts fit each other.

    Where the run has several replicates it is the first one's.

    `in_sweep` says that other trials run beside this run: it decides the automatic number of threads.

    Raises:
        RequestError: something can't be built, or the parts don't fit each other.
    """
    asked, batch, seed = config.runtime, config.batch, config.seeds[0]
    runtime = set_up_runtime(asked.device, asked.threads, in_sweep, asked.precision, world, asked.compile)
    splits = build_data(dataset_of(config, seed), runtime.device)
    plan = plan_training(config.budget, batch, len(splits.train))
    schedule = make_schedule(config.schedule, plan.total_steps, plan.steps_per_epoch)
    torch.manual_seed(derive_seed("weights", seed))
    model = build_model(config.model)
    if world.size > 1:
        check_shareable(model)
    # Lazy layers get their parameters in this check; only then can these be given a memory format.
    check_evaluation_pass(model.to(runtime.device), splits, world)
    model, runtime = arrange(model, runtime, asked.memory_format)
    micro_batch = chosen_micro_batch(
        config.batching.micro_batch, model, splits.train, runtime.device, batch, world, runtime.precision
    )
    check_training_passes(model, splits, batch, micro_batch, world)
    noise_sample = NoiseSample(tuple(config.noise_scale.epochs), config.noise_scale.examples)
    _check_noise_sample(noise_sample, plan, splits, model, json.dumps([config.model, config.dataset]))
    # From here on dropout and the like draw from the seed, not from what making the weights left; each rank its own.
    torch.manual_seed(derive_seed("noise", seed, *([world.rank] if world.rank else [])))
    optimizer = build_optimizer(config.optimizer, [p for p in model.parameters() if p.requires_grad])
    return Workload(splits, model, optimizer, plan, schedule, runtime, micro_batch, noise_sample)


def dataset_of(config: Config, seed: int) -> dict[str, Any]:
    """Return the group `dataset` of the replicate `seed`, which may have a split of its own."""
    follows = config.dataset.get("split_seed") == "replicate"
    return config.dataset | {"split_seed": seed} if follows else config.dataset


# Groups `model` and `dataset`, as JSON, whose per-example gradients this process has taken: trials repeat them.
_differentiated: set[str] = set()


def _check_noise_sample(sample: NoiseSample, plan: TrainingPlan, splits: Splits, model: nn.Module, groups: str) -> None:
    """Refuse to measure a noise scale where evaluations, examples or per-example gradients are missing."""
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
    if groups in _differentiated:
        return
    try:
        NoiseSample(examples=2).measure(model, splits.train, seed=0)
    except Exception as error:  # of torch, or of a user's own layer
        raise RequestError(
            f"model: torch.func can't take its gradients example by example: {reason_of(error)}."
            "\nUse noise_scale.epochs=[]; batching.micro_batch gives an estimate without them."
        ) from error
    _differentiated.add(groups)
