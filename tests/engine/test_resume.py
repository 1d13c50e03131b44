"""A run that is gone on with from any of its checkpoints ends as if nothing had happened."""

import pytest
import torch
from torch import nn

from pipeline.budget import plan_training
from pipeline.data import digits
from pipeline.engine import Checkpoints, fit, load_checkpoint
from pipeline.schedule import make_schedule


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
    plan = plan_training(batch=100, train_examples=len(splits.train), **budget)
    schedule = make_schedule("cosine", plan.total_steps, plan.steps_per_epoch, warmup_fraction=0.1, final_factor=0.0)
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
def test_it_equals_the_uninterrupted_run_bit_for_bit(tmp_path, optimizer, more):
    splits = digits("digits", 10, [1, 8, 8], 0, 360, 360, torch.device("cpu"))
    whole, model, seen = run(splits, tmp_path, optimizer, **more)
    for epoch in seen:
        again, other, _ = run(splits, tmp_path, optimizer, load_checkpoint(tmp_path / f"{epoch}.pt"), **more)
        assert (again.status, again.steps) == (whole.status, whole.steps)
        assert numbers(again) == numbers(whole)
        for ours, theirs in zip(other.state_dict().values(), model.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)
