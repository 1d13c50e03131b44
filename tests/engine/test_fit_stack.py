"""Replicates that train as a stack against the same runs alone."""

import copy
import math

import pytest
import torch
from torch import nn

from pipeline.data import digits
from pipeline.data.splits import in_memory_splits, split_indices
from pipeline.engine import NoiseSample, evaluate, fit
from pipeline.engine.fit_stack import Replicate, fit_stack
from pipeline.engine.stack import ELEMENTWISE, why_not_stacked
from pipeline.models import MLP, SimpleCNN, resnet18
from pipeline.recipe.budget import Budget, plan_training
from pipeline.recipe.schedule import SCHEDULES, Schedule, make_schedule

CPU = torch.device("cpu")
SHAPES = {"cosine": {"final_factor": 0.0}, "linear": {"final_factor": 0.1}, "step": {"milestones": [0.5], "gamma": 0.1}}


def digits_of(seed):
    return digits("digits", 10, [1, 8, 8], seed, 360, 360, CPU)


def make_mlp():
    return MLP((1, 8, 8), 10, (32,))


def make_cnn():
    return SimpleCNN((1, 8, 8), 10, (4, 8), 32)


class Alone:
    """How each replicate is trained, by `fit` and in a stack."""

    def __init__(
        self,
        make_model=make_mlp,
        optimizer=torch.optim.SGD,
        schedule="cosine",
        seeds=(0, 1, 2),
        batch=64,
        data=digits_of,
        budget=None,
        **arguments,
    ):
        self.seeds, self.batch, self.make_model, self.data = seeds, batch, make_model, data
        self.optimizer = lambda parameters: optimizer(parameters, **({"lr": 0.05} | arguments))
        self.plan = plan_training(budget or Budget(kind="epochs", epochs=2), batch, len(data(0).train))
        settings = Schedule(name=schedule, warmup_fraction=0.1, **SHAPES.get(schedule, {}))
        self.schedule = make_schedule(settings, self.plan.total_steps, self.plan.steps_per_epoch)

    def replicate(self, seed):
        torch.manual_seed(seed)
        return Replicate(seed, self.make_model(), self.data(seed))

    def fit(self, seed, **more):
        run = self.replicate(seed)
        result = fit(
            *(run.model, self.optimizer(run.model.parameters()), run.splits, self.plan, self.schedule),
            batch=self.batch,
            seed=seed,
            **more,
        )
        if result.has_test:
            loss, error = evaluate(run.model, run.splits.test)
            result.evaluations[-1].metrics.update({"test/loss": loss, "test/error": error})
        return result

    def fit_stack(self, **more):
        runs = [self.replicate(seed) for seed in self.seeds]
        return fit_stack(runs, self.optimizer, self.plan, self.schedule, batch=self.batch, **more)


def assert_equal(stacked, alone, relative=1e-3):
    assert (stacked.status, stacked.steps) == (alone.status, alone.steps)
    assert [e.step for e in stacked.evaluations] == [e.step for e in alone.evaluations]
    for ours, theirs in zip(stacked.evaluations, alone.evaluations, strict=True):
        assert ours.metrics.keys() == theirs.metrics.keys()
        for key in ours.metrics.keys() - {"examples_per_second"}:
            # An answer that hangs on rounding may turn over.
            margin = 2.1 / 360 if key.endswith("error") else 0
            assert ours.metrics[key] == pytest.approx(theirs.metrics[key], rel=relative, abs=margin + 1e-6), key


@pytest.mark.parametrize("make_model", [make_mlp, make_cnn])
def test_each_replicate_of_a_stack_equals_the_run_alone(make_model):
    runs = Alone(make_model, momentum=0.9)
    for seed, result in zip(runs.seeds, runs.fit_stack(), strict=True):
        assert_equal(result, runs.fit(seed))


@pytest.mark.parametrize("optimizer", sorted(ELEMENTWISE, key=lambda kind: kind.__name__))
def test_optimizers_that_work_element_by_element_do_on_a_stack_what_they_do_alone(optimizer):
    # Adaptive ones divide by the gradient's size, which where it is rounding alone decides a step's sign.
    runs = Alone(optimizer=optimizer, lr=0.002)
    for seed, result in zip(runs.seeds, runs.fit_stack(), strict=True):
        assert_equal(result, runs.fit(seed), relative=0.02)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_stack_follows_every_schedule(schedule):
    runs = Alone(schedule=schedule)
    assert_equal(runs.fit_stack()[2], runs.fit(2))


def test_a_stack_augments_and_normalises_each_replicate_as_alone():
    images = torch.randint(0, 256, (300, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def coloured(seed):
        labels, parts = torch.arange(300) % 10, split_indices(300, (60, 60), seed)
        return in_memory_splits("coloured", images, labels, parts, 10, "", "", CPU, augment=True)

    runs = Alone(lambda: MLP((3, 8, 8), 10, (16,)), data=coloured, batch=32)
    for seed, result in zip(runs.seeds, runs.fit_stack(), strict=True):
        assert_equal(result, runs.fit(seed))


def test_replicates_that_diverge_leave_the_others_untouched_to_the_last_bit():
    healthy = Alone(seeds=(0, 1, 2))
    poisoned = Alone(seeds=(0, 1, 2))

    def poison(self, seed):
        run = Alone.replicate(self, seed)
        if seed == 1:
            with torch.no_grad():
                run.model.layers[1].weight.fill_(math.nan)
        return run

    poisoned.replicate = poison.__get__(poisoned)
    first, diverged, last = poisoned.fit_stack()
    assert (diverged.status, diverged.steps, diverged.evaluations) == ("diverged", 1, [])
    for ours, theirs in zip((first, last), (healthy.fit_stack()[0], healthy.fit_stack()[2]), strict=True):
        for a, b in zip(ours.evaluations, theirs.evaluations, strict=True):
            assert a.metrics | {"examples_per_second": 0} == b.metrics | {"examples_per_second": 0}


@pytest.mark.parametrize("lr", [3.0, 30.0])
def test_each_replicate_fails_as_it_would_alone(lr):
    runs = Alone(lr=lr, momentum=0.9, seeds=(0, 1, 2, 3))
    results = runs.fit_stack()
    assert [(r.status, r.steps) for r in results] == [(r.status, r.steps) for r in map(runs.fit, runs.seeds)]
    assert {r.status for r in results} <= {"diverged", "stalled"}


def test_replicates_reach_a_target_one_by_one_and_are_tested_when_they_do():
    budget = Budget(kind="target", metric="val/loss", threshold=0.4, eval_examples=64, max_epochs=2)
    runs = Alone(budget=budget, schedule="constant", momentum=0.9, seeds=range(6))
    results = runs.fit_stack()
    assert len({result.steps for result in results}) > 1
    for seed, result in zip(runs.seeds, results, strict=True):
        assert_equal(result, runs.fit(seed))


def test_a_pruned_stack_ends_at_the_evaluation():
    runs = Alone()
    seen = []
    results = runs.fit_stack(should_prune=lambda evaluations: seen.append(len(evaluations)) or True)
    assert seen == [3]
    assert [(r.status, len(r.evaluations)) for r in results] == [("pruned", 1)] * 3


def test_the_noise_scale_is_measured_in_the_first_replicate_as_alone():
    runs = Alone()
    sample = NoiseSample((1, -1), 64)
    first, second, _ = runs.fit_stack(noise_sample=sample)
    assert_equal(first, runs.fit(0, noise_sample=sample), relative=0.01)
    assert "noise_scale/trace" in first.evaluations[0].metrics
    assert "noise_scale/trace" not in second.evaluations[0].metrics


class Dropping(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images):
        out = self.layer(images.flatten(1))
        return out if out.sum() > 0 else 2 * out


@pytest.mark.parametrize(
    ("make_model", "optimizer", "why"),
    [
        (make_mlp, torch.optim.SGD, None),
        (make_cnn, torch.optim.AdamW, None),
        (lambda: resnet18((1, 8, 8), 10, zero_init_residual=True), torch.optim.SGD, "the model keeps running averages"),
        (Dropping, torch.optim.SGD, "the model draws random numbers"),
        (Branching, torch.optim.SGD, "torch.vmap can't run this model"),
        (make_mlp, torch.optim.Adafactor, "Adafactor doesn't work element by element"),
    ],
)
def test_what_can_not_be_stacked_is_found_before_and_nothing_changes(make_model, optimizer, why):
    model, splits = make_model(), digits_of(0)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert why_not_stacked(model, optimizer(model.parameters(), lr=0.1), splits) == why
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
