"""The replicates of one run: they train at once, as a stack, where that is possible and faster, else in turn."""

import functools
import gc
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lr_study.process import available_cores
from pipeline.analysis.replicate_table import ReplicateRow
from pipeline.config import Config
from pipeline.data.stream import derive_seed
from pipeline.engine import Evaluation, FitResult, arrange, evaluate
from pipeline.engine.fit_stack import Replicate, fit_stack
from pipeline.engine.stack import why_not_stacked
from pipeline.engine.stack_size import chosen_stack_size
from pipeline.recipe.statuses import COMPLETE
from pipeline.run.build import build_data, build_model, build_optimizer
from pipeline.run.workload import Workload, build_workload, dataset_of

log = logging.getLogger("pipeline.run")
# Statuses of a replicate, the one that counts for the whole run first.
WORST_FIRST = ("diverged", "stalled", "pruned", "missed", COMPLETE)


@dataclass(frozen=True)
class Replicates:
    """How the replicates of a run have ended; `by_seed` is in order of the seeds."""

    by_seed: Mapping[int, FitResult]

    @property
    def status(self) -> str:
        """The status of the run: that of its worst replicate."""
        found = {result.status for result in self.by_seed.values()}
        return next(status for status in WORST_FIRST if status in found)

    @property
    def status_text(self) -> str:
        """The statuses in words: `complete`, or `10 complete, 2 diverged`."""
        counts = Counter(result.status for result in self.by_seed.values())
        if len(self.by_seed) == 1:
            return self.status
        return ", ".join(f"{counts[status]} {status}" for status in reversed(WORST_FIRST) if counts[status])

    @property
    def last_epoch(self) -> int:
        """The number of the last evaluation that any of them has."""
        return max(len(result.evaluations) for result in self.by_seed.values())

    def share(self, status: str) -> float:
        """Return the share of the replicates with that status."""
        return sum(result.status == status for result in self.by_seed.values()) / len(self.by_seed)

    def means(self) -> Iterator[Evaluation]:
        """Yield the mean of each evaluation over the replicates that have it."""
        for index in range(self.last_epoch):
            found = [r.evaluations[index] for r in self.by_seed.values() if len(r.evaluations) > index]
            steps = max(evaluation.step for evaluation in found)
            yield Evaluation(index + 1, steps, mean_metrics(found))

    def rows(self) -> Iterator[ReplicateRow]:
        """Yield a row for every replicate's every evaluation."""
        for seed, result in self.by_seed.items():
            # One that diverged before its first evaluation has a row without metrics.
            for evaluation in result.evaluations or [Evaluation(0, result.steps, {})]:
                yield ReplicateRow(seed, result.status, evaluation.epoch, evaluation.step, evaluation.metrics)


def mean_metrics(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Return each metric's mean, and its standard deviation as `…_sd` where several evaluations have it."""
    metrics: dict[str, float] = {"replicates": len(evaluations)}
    for key in {key: None for evaluation in evaluations for key in evaluation.metrics}:
        values = [evaluation.metrics[key] for evaluation in evaluations if key in evaluation.metrics]
        mean = math.fsum(values) / len(values)
        metrics[key] = mean
        if len(values) > 1:
            squares = math.fsum((value - mean) ** 2 for value in values)
            metrics[f"{key}_sd"] = math.sqrt(squares / (len(values) - 1))
    return metrics


def train_replicates(
    config: Config,
    workload: Workload,
    size: int,
    on_window: Callable[[int], None],
    should_prune: Callable[[Sequence[Evaluation]], bool],
) -> Replicates:
    """Train the replicates of `config`, `size` at once; `workload` is the first one's.

    Where memory runs out, `size` is halved, and the replicates that were training start again.

    Args:
        on_window: called with the steps that are done, over all replicates in turn.
        should_prune: asked with the evaluations of those that train first; these speak for the others.
    """
    results: dict[int, FitResult] = {}
    left = list(config.seeds)
    while left:
        # Parts of equal size: 12 replicates, 8 at once, are 6 and 6.
        seeds = left[: math.ceil(len(left) / math.ceil(len(left) / size))]
        done = workload.plan.total_steps * (len(results) // size)
        prune = should_prune if not results else lambda evaluations: False
        try:
            train = _train_stack if len(seeds) > 1 else _train_alone
            found = train(config, workload, seeds, lambda step, done=done: on_window(done + step), prune)  # type: ignore[misc]
        except (MemoryError, RuntimeError) as error:
            if size == 1 or not _is_out_of_memory(error):
                raise
            size = math.ceil(size / 2)
            log.warning("%d replicates at once don't fit the memory: now %d.", len(seeds), size)
            del error
            gc.collect()
            continue
        results |= zip(seeds, found, strict=True)
        left = left[len(seeds) :]
        if any(result.status == "pruned" for result in found):
            break
    return Replicates(results)


def stack_size(config: Config, workload: Workload, in_sweep: bool) -> int:
    """Return how many replicates train at once: as `runtime.stack` asks, where they can; says once why they can't."""
    asked, count = config.runtime.stack, len(config.seeds)
    if asked == 1 or count == 1:
        return 1
    # The trials of a sweep repeat it, at other LRs.
    optimizer = {key: value for key, value in config.optimizer.items() if key != "lr"}
    key = repr((config.model, config.dataset, optimizer, config.batch, config.batching, config.runtime, count))
    if key not in _chosen:
        why = _why_not_stacked(config, workload)
        if why is not None:
            _say_once(why)
            _chosen[key] = 1
        elif asked != "auto":
            _chosen[key] = min(int(asked), count)
        else:
            processes = available_cores() if in_sweep else 1
            make = functools.partial(build_optimizer, config.optimizer)
            split = workload.splits.train
            _chosen[key] = chosen_stack_size(count, workload.model, make, split, config.batch, processes)
    return _chosen[key]


# The sizes that were chosen in this process, by what they depend on.
_chosen: dict[str, int] = {}


@functools.cache
def _say_once(why: str) -> None:
    log.info("The replicates of a run train one after the other: %s.", why)


def _why_not_stacked(config: Config, workload: Workload) -> str | None:
    if workload.runtime.compiled:
        return "runtime.compile=true"
    if workload.micro_batch is not None and workload.micro_batch < config.batch:
        return f"a batch passes in micro-batches of {workload.micro_batch}"
    return why_not_stacked(workload.model, workload.optimizer, workload.splits)


def _train_stack(
    config: Config,
    workload: Workload,
    seeds: Sequence[int],
    on_window: Callable[[int], None],
    should_prune: Callable[[Sequence[Evaluation]], bool],
) -> list[FitResult]:
    def replicate(seed: int) -> Replicate:
        # The CPU's generator alone, since networks are built there: torch.manual_seed takes longer than building one.
        torch.default_generator.manual_seed(derive_seed("weights", seed))
        model, _ = arrange(build_model(config.model), workload.runtime, workload.runtime.memory_format)
        return Replicate(seed, model, build_data(dataset_of(config, seed), workload.runtime.device))

    return fit_stack(
        [replicate(seed) for seed in seeds],
        functools.partial(build_optimizer, config.optimizer),
        workload.plan,
        workload.schedule,
        batch=config.batch,
        precision=workload.runtime.precision,
        noise_sample=workload.noise_sample if seeds[0] == config.seeds[0] else None,
        on_window=on_window,
        should_prune=should_prune,
    )


def _train_alone(
    config: Config,
    workload: Workload,
    seeds: Sequence[int],
    on_window: Callable[[int], None],
    should_prune: Callable[[Sequence[Evaluation]], bool],
) -> list[FitResult]:
    (seed,) = seeds
    is_first = seed == config.seeds[0]
    runtime = replace(config.runtime, threads=workload.runtime.threads)
    alone = replace(config, seed=seed, runtime=runtime)
    own = workload if is_first else build_workload(alone, in_sweep=False)
    result = own.fit(
        alone,
        noise_sample=own.noise_sample if is_first else None,
        on_window=on_window,
        should_prune=lambda evaluation: should_prune([evaluation]),
    )
    if result.has_test:
        loss, error = evaluate(own.model, own.splits.test)
        result.evaluations[-1].metrics.update({"test/loss": loss, "test/error": error})
    return [result]


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether a CPU or GPU had no memory left, which torch says on a CPU in words alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
