"""A model is tried before training: what can't take the run's passes is refused, with a request that works."""

import copy

import pytest
import torch
from torch import nn

from pipeline.config import resolve
from pipeline.engine import World
from pipeline.engine.model_traits import depends_on_batch, has_unused_parameters
from pipeline.errors import RequestError
from pipeline.run.trial_passes import check_evaluation_pass, check_training_passes
from pipeline.run.workload import build_workload

HERE = "tests.run.test_trial_passes"


def behind(layer, width=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), layer, nn.Linear(width, 10))


def batch_norm(**options):
    return behind(nn.BatchNorm1d(16, **options))


def batch_norm_of_images():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))


def group_norm():
    """Normalises each value by itself, if there is one example."""
    return behind(nn.GroupNorm(16, 16))


def instance_norm(**options):
    """Normalises single pixels."""
    return nn.Sequential(nn.Conv2d(1, 4, 8), nn.InstanceNorm2d(4, **options), nn.Flatten(), nn.Linear(4, 10))


class OfSeveral(nn.Module):
    """A user's own model, which needs a number of examples to train on."""

    def __init__(self, needs):
        super().__init__()
        self.layer, self.needs = nn.Linear(64, 10), needs

    def forward(self, images):
        if self.training and len(images) < self.needs:
            raise ValueError(f"I need {self.needs} examples")
        return self.layer(images.flatten(1))


class WithSecondOutput(OfSeveral):
    """Has another form of output in training, as torchvision's GoogLeNet."""

    def forward(self, images):
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


@pytest.fixture
def build(composed):
    """Build the workload of a model of this module: `build("batch_norm", "batch=1")`."""

    def build_with(model, *overrides):
        config = resolve(composed("model=custom", f"model._target_={HERE}.{model}", "runtime.device=cpu", *overrides))
        return build_workload(config, in_sweep=True, world=World(0, config.runtime.workers))

    return build_with


@pytest.mark.parametrize(
    ("asked", "given", "works"),
    [
        (["batch=1"], "batch=1: ", "batch=2"),
        (["batching.micro_batch=1"], "batch=64, batching.micro_batch=1: ", "batching.micro_batch=2"),
        (
            ["batch=1", "batching.micro_batch=1"],
            "batch=1, batching.micro_batch=1: ",
            "batch=2 batching.micro_batch=null",
        ),
        (
            ["batch=65", "batching.micro_batch=64"],
            "batch=65, batching.micro_batch=64: ",
            "batching.micro_batch=63",
        ),
        (["batch=3", "runtime.workers=2"], "batch=3, runtime.workers=2: ", "batch=4"),
        (
            ["batch=65", "runtime.workers=2", "batching.micro_batch=32"],
            "batch=65, batching.micro_batch=32, runtime.workers=2: ",
            "batching.micro_batch=33",
        ),
    ],
)
def test_wherever_a_pass_gets_one_example_batch_norm_is_refused_with_a_request_that_works(build, asked, given, works):
    with pytest.raises(RequestError) as refused:
        build("batch_norm", *asked)
    first, second = str(refused.value).splitlines()
    assert first == f"{given}a forward pass of training gets 1 example(s), and the model needs 2 or more."
    assert second.startswith(f"Use, for example, {works}. The model says: Expected more than 1 value per channel")
    assert max(len(first), len(second)) < 200
    build("batch_norm", *asked, *works.split())


def test_batch_norm_takes_one_image_that_is_larger_than_a_pixel(build):
    assert build("batch_norm_of_images", "batch=1").plan.total_steps > 0


@pytest.mark.parametrize(
    ("model", "asked", "says"),
    [
        ("group_norm", ["batch=1"], r"gets 1 example\(s\), and the model needs 2 or more"),
        (
            "OfSeveral",
            ["+model.needs=3", "batch=2"],
            r"gets 2 example\(s\), .* needs 3 or more\.\n.* batch=3\. .*I need 3",
        ),
        (
            "OfSeveral",
            ["+model.needs=3", "batch=66", "batching.micro_batch=64"],
            r"\nUse, .* batching\.micro_batch=63\.",
        ),
        ("OfSeveral", ["+model.needs=99", "batch=64"], r"64 image\(s\) of 1×8×8 do not fit it in training: I need 99"),
        ("instance_norm", [], r"do not fit it: Expected more than 1 spatial element"),
        (
            "instance_norm",
            ["+model.track_running_stats=true"],
            r"do not fit it in training: Expected more than 1 spatial",
        ),
        ("WithSecondOutput", ["+model.needs=1"], r"its output for 4 image\(s\) is a tuple, not a tensor"),
        # The 1025th validation image is evaluated alone.
        (
            "group_norm",
            ["dataset.val_examples=1025"],
            r"1 image\(s\) of 1×8×8 do not fit it: Expected more than 1 value",
        ),
        ("group_norm", ["noise_scale.epochs=[1]"], "gradients example by example: Expected more than 1 value"),
        ("batch_norm", ["+model.track_running_stats=false", "noise_scale.epochs=[1]"], "gradients example by example"),
    ],
)
def test_whatever_a_model_can_not_take_is_refused(build, model, asked, says):
    with pytest.raises(RequestError, match=says):
        build(model, *asked)


def test_a_model_that_needs_more_examples_than_a_trial_has_is_tried_on_as_many_as_a_pass_has(build):
    assert build("OfSeveral", "+model.needs=40", "batch=64").plan.total_steps > 0


def test_where_passes_are_large_enough_a_model_that_needs_three_examples_is_looked_at_with_three(build):
    workload = build("OfSeveral", "+model.needs=3", "batch=66", "runtime.workers=2")
    assert not has_unused_parameters(workload.model, workload.splits.train)
    assert depends_on_batch(workload.model, workload.splits.train)


def test_trial_passes_change_nothing(build):
    splits = build("batch_norm").splits
    model = batch_norm()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check_evaluation_pass(model, splits, World())
    check_training_passes(model, splits, 64, None, World())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("examples", "most", "size", "smallest"),
    [(65, 64, 1, 1), (64, 64, 1, 64), (3, 64, 2, 1), (65, 32, 2, 1), (64, 20, 2, 12), (1, 8, 4, 1), (7, 1, 2, 1)],
)
def test_the_smallest_pass_is_that_of_any_rank(examples, most, size, smallest):
    assert {World(rank, size).smallest_pass(examples, most) for rank in range(size)} == {smallest}
