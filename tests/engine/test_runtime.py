"""What a run computes on, as it is logged."""

import torch

from pipeline.engine.runtime import device_name


def test_a_gpu_is_named_as_its_maker_does_and_a_processor_has_no_name_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA A100 as {device}")
    assert device_name(torch.device("cuda:1")) == "NVIDIA A100 as cuda:1"
    assert device_name(torch.device("cpu")) is None
