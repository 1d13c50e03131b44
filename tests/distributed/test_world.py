"""Several processes that train one model: the trajectory is that of one process with the same micro-batches."""

import copy
import functools
import math
import multiprocessing
import os
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pipeline.data import InMemorySplit, digits
from pipeline.distributed.data_parallel import check_shareable
from pipeline.engine import NoiseSample, World, evaluate, fit
from pipeline.engine.model_traits import has_unused_parameters
from pipeline.engine.optimizer_step import Stepper
from pipeline.errors import RequestError
from pipeline.recipe.budget import Budget, plan_training
from pipeline.recipe.schedule import Schedule, make_schedule

EXACT = 1e-4  # relative; single precision, after a hundred steps
DRAWN = NoiseSample((1,), examples=64)


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def with_batch_norm():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(144, 16), nn.BatchNorm1d(16, momentum=0.3), nn.ReLU(), nn.Linear(16, 10)),
    )


class WithUnused(nn.Module):
    """Has a second head that the loss doesn't use."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = mlp(), nn.Linear(64, 3)

    def forward(self, images):
        return self.used(images)


class SkipsAtRandom(nn.Module):
    """Skips a layer at random, as networks with stochastic depth do."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, images):
        hidden = self.first(images.flatten(1)).relu()
        if not self.training or torch.rand(()) < 0.7:
            hidden = hidden + self.second(hidden).relu()
        return self.last(hidden)


def with_dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10))


# Name: network, and what `run` gets. 50 examples are 13, 13, 12 and 12 for four workers, and 25 each for two; 51 are
# 13, 13, 13 and 12, and 26 and 25. An epoch is 1593 examples.
CASES = {
    "whole": (mlp, {"batch": 50}),
    "micro-batches": (mlp, {"batch": 50, "micro_batch": 7}),
    "fewest": (mlp, {"batch": 4, "steps": 20}),
    "diverged": (mlp, {"batch": 50, "lr": 1e8}),
    "norm": (with_batch_norm, {"batch": 48}),
    "norm, unequal": (with_batch_norm, {"batch": 51}),
    "norm, micro-batches": (with_batch_norm, {"batch": 51, "micro_batch": 13}),
    "few steps an epoch": (mlp, {"batch": 531, "steps": 72}),
    "noise": (mlp, {"batch": 48, "noise_sample": DRAWN}),
    "unused": (WithUnused, {"batch": 50, "micro_batch": 7, "steps": 20}),
}


def run(network, batch, world=None, micro_batch=None, lr=0.05, steps=70, **more):
    """Return the evaluations of a short training on digits, and the model after it."""
    world = world or World()
    splits = digits("digits", 10, [1, 8, 8], 0, 103, 101, torch.device("cpu"))
    torch.manual_seed(1)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    plan = plan_training(Budget(kind="steps", steps=steps), batch, len(splits.train))
    schedule = make_schedule(Schedule(name="cosine", final_factor=0.1), plan.total_steps, plan.steps_per_epoch)
    torch.manual_seed(2 + world.rank)
    result = fit(
        *(model, optimizer, splits, plan, schedule),
        **{"batch": batch, "seed": 3, "micro_batch": micro_batch, "world": world, **more},
    )
    metrics = [{k: v for k, v in e.metrics.items() if k != "examples_per_second"} for e in result.evaluations]
    return {
        "status": result.status,
        "metrics": metrics,
        "test": evaluate(model, splits.test, world=world),
        "model": model.state_dict(),
    }


def counted(function):
    """Add to the dict that `function` returns: examples evaluated, by split, and windows of each check."""

    def call(*arguments, **more):
        evaluated, checks = Counter(), []
        batches, to_host = InMemorySplit.batches, Stepper.to_host

        def count(split, slices, augment_seed=None):
            for images, labels in batches(split, slices, augment_seed):
                if augment_seed is None and not torch.is_grad_enabled():
                    evaluated[len(split)] += len(labels)
                yield images, labels

        InMemorySplit.batches = count
        Stepper.to_host = lambda stepper, sums: checks.append(len(sums)) or to_host(stepper, sums)
        try:
            found = function(*arguments, **more)
        finally:
            InMemorySplit.batches, Stepper.to_host = batches, to_host
        return found | {"evaluated": dict(evaluated), "checks": checks}

    return call


def member(rank, count, folder):
    """Run every case as one rank, and save the results."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    world = World(rank, count)
    found = {name: counted(run)(network, world=world, **more) for name, (network, more) in CASES.items()}
    found["pruned"] = run(mlp, 50, world, should_prune=lambda e: rank == 0 and e.epoch == 2)
    found["skipping"] = run(SkipsAtRandom, 50, world)
    found["skipping, micro-batches"] = run(SkipsAtRandom, 50, world, micro_batch=7)
    states = []
    whole = run(with_dropout, 50, world, on_state=lambda e, state: states.append(copy.deepcopy(state())))
    again = run(with_dropout, 50, world, resume_from=states[0] if rank == 0 else None)
    found |= {"uninterrupted": whole, "resumed": again}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # during Python's own shutdown threads of torch's may abort the process (SIGABRT)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def together(request, tmp_path_factory):
    """(world size, the results of each rank)."""
    folder, count = tmp_path_factory.mktemp("workers"), request.param
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=member, args=(rank, count, folder)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0] * count
    return count, [torch.load(folder / f"{rank}.pt") for rank in range(count)]


@functools.cache
def single_process(name, passes=None):
    """Return a case's results in this process, with `passes` micro-batches a step."""
    network, more = CASES[name]
    cut = {"micro_batch": -(-more["batch"] // passes)} if passes else {}
    return counted(run)(network, **(more | cut))


def same(found, expected, exact=EXACT):
    assert found["status"] == expected["status"]
    assert len(found["metrics"]) == len(expected["metrics"])
    for ours, theirs in zip(found["metrics"], expected["metrics"], strict=True):
        # Estimates of the noise scale depend on the micro-batches.
        compared = {key for key in ours.keys() & theirs.keys() if not key.startswith("noise_scale")}
        assert {"train/loss", "train/error", "val/loss", "val/error", "grad_norm", "lr"} <= compared
        for key in compared:
            assert ours[key] == pytest.approx(theirs[key], rel=exact, abs=1e-6), key
    assert found["test"] == pytest.approx(expected["test"], rel=exact, nan_ok=True)


@pytest.mark.parametrize("name", ["whole", "micro-batches", "fewest", "diverged", "unused", "few steps an epoch"])
def test_several_processes_give_the_trajectory_of_one(together, name):
    _, found = together
    for worker in found:
        same(worker[name], single_process(name))


def test_all_ranks_hold_the_same_network_bit_for_bit(together):
    _, found = together
    for name in found[0]:
        for worker in found[1:]:
            for key, tensor in worker[name]["model"].items():
                assert torch.equal(tensor, found[0][name]["model"][key]) or tensor.isnan().any(), (name, key)


@pytest.mark.parametrize("name", ["norm", "norm, unequal", "norm, micro-batches"])
def test_with_batch_norm_the_trajectory_is_that_of_one_process_with_the_same_micro_batch(together, name):
    count, found = together
    expected = single_process(name) if name == "norm, micro-batches" else single_process(name, count)
    same(found[0][name], expected)
    for key, tensor in expected["model"].items():
        torch.testing.assert_close(found[0][name]["model"][key], tensor, rtol=1e-3, atol=1e-5, msg=key)


def test_each_rank_evaluates_its_shard_and_no_more(together):
    count, found = together
    evaluations = len(found[0]["whole"]["metrics"])
    for rank, worker in enumerate(found):
        for part, times in ((103, evaluations), (101, 1)):
            start, stop = World(rank, count).shard(part)
            assert worker["whole"]["evaluated"][part] == (stop - start) * times


def test_several_processes_check_seldom_if_steps_are_few_and_get_the_same_numbers(together):
    _, found = together
    case = "few steps an epoch"
    same(found[0][case], single_process(case))
    assert len(single_process(case)["checks"]) == 72, "one process checks every step"
    evaluations = len(single_process(case)["metrics"])
    for worker in found:
        assert sum(worker[case]["checks"]) == 72
        assert len(worker[case]["checks"]) <= 16 + (72 - 16) / 16 + evaluations


def test_several_processes_measure_the_noise_scale_as_accumulation_does(together):
    count, found = together
    expected = single_process("noise", count)
    for ours, theirs in zip(found[0]["noise"]["metrics"], expected["metrics"], strict=True):
        keys = [key for key in theirs if key.startswith("noise_scale")]
        assert "noise_scale_accumulated/trace" in keys
        assert sorted(keys) == sorted(key for key in ours if key.startswith("noise_scale"))
        for key in keys:
            assert ours[key] == pytest.approx(theirs[key], rel=0.01), key
    assert "noise_scale/trace" in found[0]["noise"]["metrics"][0]
    assert "noise_scale/trace" not in found[1]["noise"]["metrics"][0], "only rank 0 measures on a sample"


def test_rank_0_decides_about_pruning_for_all(together):
    _, found = together
    assert [worker["pruned"]["status"] for worker in found] == ["pruned"] * len(found)
    assert [len(worker["pruned"]["metrics"]) for worker in found] == [2] * len(found)


@pytest.mark.parametrize("name", ["skipping", "skipping, micro-batches"])
def test_layers_may_be_skipped_at_random_and_all_ranks_stay_equal(together, name):
    _, found = together
    first = found[0][name]
    assert first["status"] == "complete"
    assert first["metrics"][-1]["train/loss"] < 0.5 * first["metrics"][0]["train/loss"]
    for worker in found[1:]:
        assert worker[name]["metrics"] == first["metrics"]
        assert all(torch.equal(tensor, worker[name]["model"][key]) for key, tensor in first["model"].items())


def test_a_run_of_several_processes_is_resumed(together):
    count, found = together
    for worker in found:
        same(worker["resumed"], worker["uninterrupted"])
        if count == 2:
            # With more, the order in which torch adds gradients differs in the first step of a process.
            assert worker["resumed"]["metrics"] == worker["uninterrupted"]["metrics"]


@pytest.mark.parametrize(("examples", "count"), [(50, 4), (7, 7), (3, 5), (0, 2), (1024, 3)])
def test_shards_differ_by_one_at_most_and_cover_everything_once(examples, count):
    shards = [World(rank, count).shard(examples) for rank in range(count)]
    assert [start for start, _ in shards] == [0, *(stop for _, stop in shards[:-1])]
    assert shards[-1][1] == examples
    sizes = [stop - start for start, stop in shards]
    assert max(sizes) - min(sizes) <= 1


def test_passes_are_counted_for_each_rank():
    assert World(0, 4).passes_per_rank(50, 7) == [math.ceil(shard / 7) for shard in (13, 13, 12, 12)]
    assert World(0, 2).passes_per_rank(50, None) == [1, 1]
    assert World().passes_per_rank(50, 20) == [3]


def test_batch_norm_with_an_average_over_all_batches_is_refused():
    check_shareable(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=None, track_running_stats=False)))
    with pytest.raises(RequestError, match=r"model: 1 has momentum=None.*\n.*runtime.workers=1"):
        check_shareable(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3, momentum=None)))


def test_unused_parameters_are_found_without_changing_the_model():
    torch.manual_seed(0)
    split = InMemorySplit(torch.randn(4, 1, 8, 8), torch.arange(4))
    networks = {with_batch_norm: False, with_dropout: False, WithUnused: True, SkipsAtRandom: True}
    for network, has_unused in networks.items():
        model = network().eval()
        before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        assert has_unused_parameters(model, split) is has_unused
        assert torch.equal(torch.get_rng_state(), random)
        assert not model.training
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
