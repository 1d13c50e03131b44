"""The replicates of one run: at once or in turn they give the same numbers, and memory that runs out costs time only."""

import logging
import math

import pytest
import torch

from pipeline.config import resolve
from pipeline.engine import Evaluation, FitResult
from pipeline.run import replicates
from pipeline.run.replicates import Replicates, mean_metrics, stack_size, train_replicates
from pipeline.run.workload import build_workload

SMALL = ("budget.epochs=2", "model.hidden=[16]", "batch=64", "seed=3-7")


def train(composed, *overrides, size=None, prune=lambda evaluations: False):
    config = resolve(composed(*SMALL, *overrides))
    workload = build_workload(config, in_sweep=True)
    chosen = stack_size(config, workload, in_sweep=True) if size is None else size
    return train_replicates(config, workload, chosen, lambda step: None, prune)


def losses(found):
    return [[e.metrics["val/loss"] for e in result.evaluations] for result in found.by_seed.values()]


@pytest.mark.parametrize(
    "overrides", [(), ("dataset.split_seed=5",), ("optimizer=adamw",), ("noise_scale.epochs=[1]",)]
)
def test_replicates_in_parts_of_any_size_equal_those_in_turn(composed, overrides):
    in_turn = train(composed, *overrides, size=1)
    assert list(in_turn.by_seed) == [3, 4, 5, 6, 7]
    for size in (2, 5):
        stacked = train(composed, *overrides, size=size)
        for ours, theirs in zip(losses(stacked), losses(in_turn), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3)
        assert stacked.status == in_turn.status == "complete"
        assert [r.evaluations[-1].metrics.keys() for r in stacked.by_seed.values()] == [
            r.evaluations[-1].metrics.keys() for r in in_turn.by_seed.values()
        ]


def test_each_seed_has_a_validation_split_of_its_own_unless_it_is_pinned(composed):
    def val_labels(seed, *overrides):
        return build_workload(resolve(composed(f"seed={seed}", *overrides)), in_sweep=True).splits.val.labels

    assert not torch.equal(val_labels(1), val_labels(2))
    assert torch.equal(val_labels(1, "dataset.split_seed=0"), val_labels(2, "dataset.split_seed=0"))
    assert torch.equal(val_labels(0), val_labels(2, "dataset.split_seed=0"))


def test_where_memory_runs_out_half_as_many_train_at_once_and_it_is_said_once(composed, monkeypatch, caplog):
    expected = losses(train(composed, size=5))
    fit_stack, tried = replicates.fit_stack, []

    def short_of_memory(runs, *arguments, **more):
        tried.append(len(runs))
        if len(runs) > 3:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            )
        return fit_stack(runs, *arguments, **more)

    monkeypatch.setattr(replicates, "fit_stack", short_of_memory)
    with caplog.at_level(logging.WARNING):
        found = train(composed, size=5)
    assert tried == [5, 3, 2]
    assert caplog.messages == ["5 replicates at once don't fit the memory: now 3."]
    assert losses(found) == [pytest.approx(own, rel=1e-3) for own in expected]


def test_another_error_is_raised_as_it_is(composed, monkeypatch):
    def broken(*arguments, **more):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(replicates, "fit_stack", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(composed, size=5)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("model=resnet18", "~model.hidden"), "keeps running averages"),
        (("batching=accumulate", "batching.micro_batch=32"), "micro-batches of 32"),
        (("+optimizer.fused=false", "optimizer._target_=torch.optim.Adafactor", "~optimizer.momentum"), "Adafactor"),
    ],
)
def test_what_can_not_be_stacked_trains_in_turn_and_says_so_once(composed, overrides, why, caplog):
    replicates._say_once.cache_clear()
    small = [override for override in SMALL if "hidden" not in override or "model=resnet18" not in overrides]
    config = resolve(composed(*small, *(o for o in overrides if o not in ("~model.hidden", "+optimizer.fused=false"))))
    workload = build_workload(config, in_sweep=True)
    with caplog.at_level(logging.INFO):
        assert [stack_size(config, workload, in_sweep=True) for _ in range(2)] == [1, 1]
    (line,) = [message for message in caplog.messages if "one after the other" in message]
    assert why in line


def test_the_stack_is_as_large_as_asked_for_but_no_larger_than_the_run(composed):
    for asked, used in ((1, 1), (3, 3), (64, 5)):
        config = resolve(composed(*SMALL, f"runtime.stack={asked}"))
        assert stack_size(config, build_workload(config, in_sweep=True), in_sweep=True) == used


def test_a_pruned_part_ends_the_run(composed):
    found = train(composed, size=2, prune=lambda evaluations: True)
    assert (list(found.by_seed), found.status) == ([3, 4], "pruned")


def test_means_and_standard_deviations_are_over_the_replicates_that_have_a_metric():
    first = Evaluation(1, 10, {"val/loss": 1.0, "noise_scale": 5.0})
    second = Evaluation(1, 10, {"val/loss": 2.0})
    metrics = mean_metrics([first, second])
    assert metrics == {
        "replicates": 2,
        "val/loss": 1.5,
        "val/loss_sd": pytest.approx(math.sqrt(0.5)),
        "noise_scale": 5.0,
    }


def test_a_run_has_the_status_of_its_worst_replicate():
    results = {seed: FitResult(status) for seed, status in enumerate(("complete", "stalled", "complete"))}
    found = Replicates(results)
    assert (found.status, found.status_text) == ("stalled", "2 complete, 1 stalled")
    assert [(row.seed, row.status, row.evaluation) for row in found.rows()] == [
        (0, "complete", 0),
        (1, "stalled", 0),
        (2, "complete", 0),
    ]
