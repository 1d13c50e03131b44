"""What a run computes on, as it is logged."""

import torch

from pipeline.engine.precision import Precision
from pipeline.engine.runtime import Runtime
from pipeline.engine.workers import ALONE


def test_a_gpu_is_named_as_its_maker_does_and_a_processor_has_no_name_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA A100 as {device}")

    def on(device):
        return Runtime(torch.device(device), 1, Precision("fp32", "cpu"), "contiguous", ALONE)

    assert on("cuda:1").device_name == "NVIDIA A100 as cuda:1"
    assert on("cpu").device_name is None
