"""What a run computes on and in, chosen once for each process."""

import functools
import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pipeline.distributed.world import SINGLE_PROCESS, World
from pipeline.engine.allocator import keep_freed_memory
from pipeline.engine.model_traits import convolves
from pipeline.engine.precision import Precision
from pipeline.errors import RequestError

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Runtime:
    """How a run computes, with nothing left to be chosen.

    Attributes:
        device: torch's.
        threads: for each operation on the CPU, in this process.
        precision: of forward passes.
        memory_format: how images and convolutions' weights lie in memory: `contiguous` or `channels_last`.
        workers: this process's place among those that train together.
        compiled: whether training's passes go through `torch.compile`.
    """

    device: torch.device
    threads: int
    precision: Precision
    memory_format: str
    world: World
    compiled: bool = False

    def as_params(self) -> dict[str, Any]:
        """As it is logged: what has to be known to compute the same again."""
        return {
            # Each worker takes the GPU that is its own.
            "runtime.device": str(self.device) if self.world.size == 1 else self.device.type,
            "runtime.threads": self.threads,
            "runtime.precision": self.precision.name,
            "runtime.memory_format": self.memory_format,
            "runtime.workers": self.world.size,
            "runtime.compile": self.compiled,
        }


def set_up_runtime(
    device: str,
    threads: int | str,
    in_sweep: bool,
    precision: str = "auto",
    world: World = SINGLE_PROCESS,
    compiled: bool = False,
) -> Runtime:
    """Choose device, threads and precision, and tell torch.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps` …
        threads: a number, or `auto`: torch's own choice, divided among the workers; 1 where `in_sweep` runs shares
            the CPU.
        in_sweep: whether other trials run beside this one.
        precision: `auto`, `fp32` or `bf16`; auto is single precision.
        workers: this process's place among those that train together; each takes a GPU of its own.
        compiled: whether training's passes are to go through `torch.compile`.

    Raises:
        RequestError: a device that isn't there, a number of threads that isn't one, a precision that can't be had, or
            nothing to compile with.
    """
    chosen = _device(device, world)
    if threads != "auto" and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise RequestError(f"runtime.threads={threads}: it must be auto or a whole number from 1 up.")
    if threads == "auto":
        shared = in_sweep and chosen.type == "cpu"
        # What the environment says, it says for each process: torchrun sets it, too.
        sharing = 1 if "OMP_NUM_THREADS" in os.environ else world.size
        threads = 1 if shared else max(1, torch.get_num_threads() // sharing)
    assert isinstance(threads, int)
    torch.set_num_threads(threads)
    used = Precision("fp32" if precision == "auto" else precision, chosen.type)
    if used.name == "bf16" and chosen.type == "mps":
        raise RequestError("runtime.precision=bf16: not on mps.\nUse runtime.precision=fp32, or another device.")
    if compiled:
        _try_compiler(chosen)
    return Runtime(chosen, threads, used, "contiguous", world, compiled)


def arrange(model: nn.Module, runtime: Runtime, memory_format: str) -> tuple[nn.Module, Runtime]:
    """Put `model` on the device in the memory format asked for; returns it, and what was chosen.

    Args:
        model: as it was built.
        runtime: from `set_up_runtime`.
        memory_format: `contiguous`, `channels_last`, or `auto`: the latter for networks that convolve images,
            measured to be 1.1 to 1.3 times as fast on CPUs (benchmarks/RESULTS.md).
    """
    used = memory_format
    if memory_format == "auto":
        used = "channels_last" if convolves(model) else "contiguous"
    if convolves(model) and runtime.device.type == "cpu":
        keep_freed_memory()
    model = model.to(runtime.device, memory_format=MEMORY_FORMATS[used])  # type: ignore[call-overload]
    return model, replace(runtime, memory_format=used)


@functools.cache
def _try_compiler(device: torch.device) -> None:
    """Compile something small: what is missing shows now, and not at the first step."""
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except Exception as error:  # of torch's compiler, of a C++ or CUDA compiler, or for want of one
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RequestError(
            f"runtime.compile=true: torch.compile doesn't work here ({reason[:160]})."
            "\nInstall a C++ compiler (Debian: g++), or leave runtime.compile=false."
        ) from None


def device_name(device: torch.device) -> str | None:
    """A GPU's name as its maker gives it; None for a processor, of which torch knows none."""
    name_of = getattr(torch.get_device_module(device), "get_device_name", None)
    return None if name_of is None else str(name_of(device))


def _device(name: str, world: World) -> torch.device:
    if name == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    else:
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RequestError(f"runtime.device={name}: not usable here ({reason}).\nUse auto or cpu.") from None
    if world.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise RequestError(
            f"runtime.device={name}: {world.size} workers can't share it.\nUse runtime.device=cuda, or cpu."
        )
    # Of these, so many are on this machine, by torchrun's own count where it started them.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    if here > torch.cuda.device_count():
        raise RequestError(
            f"runtime.workers={here}: each needs a GPU of its own, and there are {torch.cuda.device_count()}."
            "\nUse fewer workers, or runtime.device=cpu."
        )
    local = int(os.environ.get("LOCAL_RANK", world.rank))
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
