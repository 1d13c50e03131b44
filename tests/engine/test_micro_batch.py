"""The micro-batch that `auto` chooses: less memory, and the same numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import resolve
from pipeline.data import InMemorySplit
from pipeline.engine import World, chosen_micro_batch
from pipeline.engine.model_traits import depends_on_batch
from pipeline.engine.runtime import Precision
from pipeline.models import MLP, SimpleCNN, resnet18
from pipeline.run.workload import build_workload

CPU = torch.device("cpu")


class OwnDropout(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, self.training)


class OwnNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return x - x.mean(dim=0)


def cnn(*layers):
    return nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.Flatten(), nn.Linear(144, 10))


@pytest.fixture(scope="module")
def split():
    generator = torch.Generator().manual_seed(0)
    return InMemorySplit(torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8))


def chosen(split, model=None, asked="auto", batch=2048, device=CPU, world=1, precision="fp32"):
    model = model or cnn(nn.ReLU())
    return chosen_micro_batch(asked, model, split, device, batch, World(0, world), Precision(precision))


def test_convolutional_networks_get_equal_micro_batches_on_a_cpu(split):
    assert chosen(split) == 1024
    assert [chosen(split, batch=batch) for batch in (1025, 1200, 2048, 16384)] == [513, 600, 1024, 1024]
    assert chosen(split, batch=8192, world=4) == 1024
    assert chosen(split, SimpleCNN((1, 8, 8), 10, (4, 8), 16)) == 1024
    assert chosen(split, batch=16384, precision="bf16") == 2048  # as many bytes


@pytest.mark.parametrize(
    "more",
    [
        {"batch": 1024},
        {"batch": 4096, "world": 4},
        {"precision": "bf16"},
        {"device": torch.device("cuda")},
        {"model": MLP((1, 8, 8), 10, (16,))},
        {"model": cnn(nn.BatchNorm2d(4))},
        {"model": cnn(nn.Dropout(0.1))},
        {"model": cnn(OwnDropout())},
        {"model": cnn(OwnNorm())},
    ],
    ids=["small batch", "small shards", "bf16", "gpu", "mlp", "norm", "dropout", "own dropout", "own norm"],
)
def test_a_batch_is_not_cut_if_that_saves_nothing_or_changes_the_numbers(split, more):
    assert chosen(split, **more) is None


@pytest.mark.parametrize("asked", [None, 7, 4096])
def test_a_given_micro_batch_is_used(split, asked):
    assert chosen(split, asked=asked) == asked


def test_depends_on_batch_does_not_change_the_model(split):
    for model in (resnet18((1, 8, 8), 10), cnn(OwnDropout()), cnn(OwnNorm())):
        before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        assert depends_on_batch(model.eval(), split)
        assert torch.equal(torch.get_rng_state(), random)
        assert not model.training
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(("more", "used"), [([], 538), (["batching=whole"], None), (["batching=accumulate"], 256)])
def test_a_workload_names_the_micro_batch_that_is_used_and_never_auto(composed, more, used):
    config = resolve(composed("model=simple_cnn", "model.channels=[2,2]", "model.dense=8", "batch=1076", *more))
    assert build_workload(config, in_sweep=True).micro_batch == used
