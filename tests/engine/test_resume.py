"""A run that is resumed from any of its checkpoints ends as the uninterrupted run does."""

import pytest
import torch
from torch import nn

from pipeline.data import digits
from pipeline.engine import Checkpoints, fit, load_checkpoint
from pipeline.engine.state import random_states, set_random_state
from pipeline.recipe.budget import Budget, plan_training
from pipeline.recipe.schedule import Schedule, make_schedule


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.3), nn.BatchNorm1d(32), nn.Linear(32, 10))


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.003),
}


def run(splits, folder, optimizer, state=None, lr=None, **budget):
    torch.manual_seed(7)
    model = network()
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    if lr is not None:
        optimizer.param_groups[0]["lr"] = lr
    plan = plan_training(Budget(**budget), 100, len(splits.train))
    schedule = make_schedule(
        Schedule(name="cosine", warmup_fraction=0.1, final_factor=0.0), plan.total_steps, plan.steps_per_epoch
    )
    checkpoints = Checkpoints(folder, "last", "val/loss")
    seen = []

    def keep(evaluation, state):
        seen.append(evaluation.epoch)
        checkpoints.update(evaluation, state)
        (folder / "last.pt").rename(folder / f"{evaluation.epoch}.pt")

    result = fit(
        *(model, optimizer, splits, plan, schedule),
        **{"batch": 100, "seed": 3, "micro_batch": 40, "on_state": keep, "resume_from": state},
    )
    return result, model, seen


def numbers(result):
    return [
        (e.epoch, e.step, {k: v for k, v in e.metrics.items() if k != "examples_per_second"})
        for e in result.evaluations
    ]


@pytest.mark.parametrize(
    ("optimizer", "more"),
    [
        ("sgd", {"kind": "epochs", "epochs": 3}),
        ("adamw", {"kind": "epochs", "epochs": 3}),
        ("sgd", {"kind": "target", "metric": "val/loss", "threshold": 0.3, "max_epochs": 9, "eval_examples": 500}),
        ("sgd", {"kind": "epochs", "epochs": 3, "lr": 1e4}),
    ],
    ids=["sgd", "adamw", "target", "diverged"],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, optimizer, more):
    splits = digits("digits", 10, [1, 8, 8], 0, 360, 360, torch.device("cpu"))
    whole, model, seen = run(splits, tmp_path, optimizer, **more)
    for epoch in seen:
        again, other, _ = run(splits, tmp_path, optimizer, load_checkpoint(tmp_path / f"{epoch}.pt"), **more)
        assert (again.status, again.steps) == (whole.status, whole.steps)
        assert numbers(again) == numbers(whole)
        for ours, theirs in zip(other.state_dict().values(), model.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)


class OneOfTwo:
    """What `random_states` and `set_random_state` need of a stepper, in rank `rank` of two with a GPU each."""

    def __init__(self, rank):
        self.device, self.world = torch.device("cuda", rank), self
        self.rank, self.size = rank, 2

    def all_gather(self, tensor):
        return [tensor + other - self.rank for other in range(2)]


def test_each_rank_restores_the_random_generator_of_its_own_gpu(monkeypatch):
    set_to = {}
    monkeypatch.setattr(torch, "get_rng_state", lambda: torch.tensor([10]))
    monkeypatch.setattr(torch, "set_rng_state", lambda state: set_to.update(cpu=state.item()))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([20 + device.index]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: set_to.update({str(device): state.item()}))
    random = random_states(OneOfTwo(0))
    assert random == [[10, 20], [11, 21]]
    set_random_state(random, OneOfTwo(1))
    assert set_to == {"cpu": 11, "cuda:1": 21}
    set_to.clear()
    set_random_state(random[:1], OneOfTwo(1))
    assert set_to == {}, "another world size keeps its seeds"
    set_random_state([[torch.tensor([10])], [torch.tensor([11])]], OneOfTwo(1))
    assert set_to == {"cpu": 11}, "the run was on a CPU before"
