"""Device, precision and memory format: what this machine lacks is refused before the run is opened."""

import pytest
import torch

from pipeline.config import resolve
from pipeline.engine import Runtime, World, set_up_runtime
from pipeline.engine.runtime import FP32, device_name
from pipeline.errors import RequestError
from pipeline.sweep.preflight import first_refusal


@pytest.fixture
def two_gpus(monkeypatch):
    """Let torch report two GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *sizes, device=None, **more: empty(*sizes, **more))


@pytest.mark.usefixtures("two_gpus")
def test_each_rank_takes_a_gpu_of_its_own_and_too_few_gpus_are_refused(monkeypatch):
    assert [set_up_runtime("cuda", 1, False, world=World(rank, 2)).device.index for rank in (0, 1)] == [0, 1]
    with pytest.raises(RequestError, match=r"runtime.workers=3: each needs a GPU of its own, and there are 2"):
        set_up_runtime("cuda", 1, False, world=World(0, 3))
    # Four ranks on two machines.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert set_up_runtime("cuda", 1, False, world=World(3, 4)).device.index == 1


def test_the_logged_device_can_be_given_again_with_the_same_world_size():
    for world, logged in ((World(), "cuda:1"), (World(1, 2), "cuda")):
        runtime = Runtime(torch.device("cuda", 1), 1, FP32, "contiguous", world)
        assert runtime.as_params()["runtime.device"] == logged


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (["runtime.device=meta"], "2 workers can't share it"),
        (
            ["model=custom", "model._target_=torch.nn.BatchNorm2d", "+model.num_features=1", "+model.momentum=null"],
            None,
        ),
    ],
)
def test_a_sweep_checks_before_its_first_trial_whether_workers_can_share_its_runs(composed, request_, said):
    config = resolve(composed("runtime.workers=2", *request_))
    assert (said or "BatchNorm2d has momentum=None") in (first_refusal([config]) or "")


def test_a_gpu_has_its_product_name_and_a_cpu_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA A100 as {device}")
    assert device_name(torch.device("cuda:1")) == "NVIDIA A100 as cuda:1"
    assert device_name(torch.device("cpu")) is None
