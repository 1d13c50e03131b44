"""What the forward and backward passes compute in."""

import contextlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """Single precision, or bfloat16 where it costs little accuracy (`torch.autocast`).

    Parameters, gradients, the optimizer's state and evaluations are in single precision either way.

    Attributes:
        name: `fp32` or `bf16`.
        device: type of the device: `cpu`, `cuda` …
    """

    name: str = "fp32"
    device: str = "cpu"

    def context(self) -> contextlib.AbstractContextManager[object]:
        """To be entered for each forward pass."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)


FULL = Precision()
