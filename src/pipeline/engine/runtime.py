"""How a run computes: device, threads, precision, memory and micro-batch, chosen once for each process."""

import contextlib
import ctypes
import functools
import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lr_study import reason_of
from pipeline.data.splits import Split
from pipeline.distributed.world import SINGLE_PROCESS, World
from pipeline.engine.model_traits import convolves, depends_on_batch
from pipeline.errors import RequestError

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# What `torch.autocast` computes in, by the name of a precision; None is single precision throughout. A new one needs
# its name in `config.checks`, too, and its largest micro-batch below.
AUTOCAST_TYPES = {"fp32": None, "bf16": torch.bfloat16}
# The simple_cnn at batch 2048, two threads: 0.94, 0.98 and 1.00 of the whole batch's speed in micro-batches of 256, 512
# and 1024, with 0.72, 0.82 and 0.95 of the bare loop's peak memory; the whole batch takes 1.29. In bfloat16 0.94 and
# 0.96 in micro-batches of 512 and 1024, and the whole batch takes 0.92 of the memory (benchmarks/loop.py --pieces).
LARGEST_MICRO_BATCH = {"fp32": 1024, "bf16": 2048}


@dataclass(frozen=True)
class Precision:
    """The precision of training's forward passes.

    Parameters, gradients, the optimizer's state and evaluations are in single precision in any case.
    """

    name: str = "fp32"  # a key of `AUTOCAST_TYPES`
    device: str = "cpu"  # its type

    def context(self) -> contextlib.AbstractContextManager[object]:
        """Return the context for a forward pass."""
        dtype = AUTOCAST_TYPES[self.name]
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device, dtype=dtype)


FP32 = Precision()


@dataclass(frozen=True)
class Runtime:
    """How a run computes, with no `auto` left."""

    device: torch.device
    threads: int  # for each operation on the CPU, in this process
    precision: Precision
    memory_format: str  # the layout of images and convolutions' weights: a key of `MEMORY_FORMATS`
    world: World
    compiled: bool = False  # whether training passes go through `torch.compile`

    def as_params(self) -> dict[str, Any]:
        """Return the params to log: what a repetition has to set."""
        return {
            # With several processes each has a GPU of its own.
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
    """Choose device, threads and precision, and set the threads in torch.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps` …
        threads: a number, or `auto`: torch's own choice divided by the world size; 1 on the CPU in a sweep.
        in_sweep: whether other trials run beside this one.
        precision: `auto`, `fp32` or `bf16`; auto is single precision.
        world: the processes that train together; each takes a GPU of its own.
        compiled: whether training passes go through `torch.compile`.

    Raises:
        RequestError: this machine lacks the device, the precision or the compiler, or `threads` is no such number.
    """
    chosen = _device(device, world)
    if threads == "auto":
        # OMP_NUM_THREADS, which torchrun sets, counts for each process already.
        processes = 1 if "OMP_NUM_THREADS" in os.environ else world.size
        on_shared_cpu = in_sweep and chosen.type == "cpu"
        threads = 1 if on_shared_cpu else max(1, torch.get_num_threads() // processes)
    elif isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise RequestError(f"runtime.threads={threads}: it must be auto or a whole number from 1 up.")
    torch.set_num_threads(threads)
    used = Precision("fp32" if precision == "auto" else precision, chosen.type)
    if used.name == "bf16" and chosen.type == "mps":
        raise RequestError("runtime.precision=bf16: not on mps.\nUse runtime.precision=fp32, or another device.")
    if compiled:
        _try_compiler(chosen)
    return Runtime(chosen, threads, used, "contiguous", world, compiled)


def arrange(model: nn.Module, runtime: Runtime, memory_format: str) -> tuple[nn.Module, Runtime]:
    """Move `model` to the device in a memory format; return it, and `runtime` with the format used.

    `memory_format` is `contiguous`, `channels_last`, or `auto`: channels_last for networks that convolve images, which
    makes them 1.1 to 1.3 times as fast on CPUs (benchmarks/RESULTS.md).
    """
    if memory_format == "auto":
        memory_format = "channels_last" if convolves(model) else "contiguous"
    if convolves(model) and runtime.device.type == "cpu":
        _keep_freed_memory()
    model = model.to(runtime.device, memory_format=MEMORY_FORMATS[memory_format])  # type: ignore[call-overload]
    return model, replace(runtime, memory_format=memory_format)


def chosen_micro_batch(
    asked: int | str | None,
    model: nn.Module,
    split: Split,
    device: torch.device,
    batch: int,
    world: World = SINGLE_PROCESS,
    precision: Precision = FP32,
) -> int | None:
    """Return the most examples in one forward pass; None is the rank's whole shard of the batch.

    `asked` is a number, None, or `auto`. That cuts the batch where it saves memory, costs no speed and changes no
    number beyond rounding: on a CPU, for networks with convolutions that treat each example by itself, into equal
    micro-batches of at most `LARGEST_MICRO_BATCH`. The model is tried on a few examples of `split`.
    """
    if asked is None or isinstance(asked, int):
        return asked
    largest_shard = World(0, world.size).shard(batch)[1]
    passes = -(-largest_shard // LARGEST_MICRO_BATCH[precision.name])
    if passes == 1 or device.type != "cpu" or not convolves(model) or depends_on_batch(model, split):
        return None
    return -(-largest_shard // passes)


@functools.cache
def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step, for as long as this process lives; elsewhere do nothing.

    glibc returns large blocks to the system when they are freed. Each training step gets its activations again, page
    by page, each page a fault and zeroed; benchmarks/RESULTS.md has what that costs convolutional networks.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - other C libraries have another mallopt
        mallopt = libc.mallopt
    except (OSError, AttributeError, TypeError):
        return
    # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h: without mmap a block lies in the heap, which isn't trimmed. M_MXFAST:
    # small free blocks are merged with their neighbours at once, so that the next step's blocks fit where this one's
    # were: a tenth less memory.
    for option, value in ((-4, 0), (-1, 2**31 - 1), (1, 0)):
        mallopt(option, value)


@functools.cache
def _try_compiler(device: torch.device) -> None:
    """Compile something small, so that a missing compiler shows before the run is opened."""
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except Exception as error:  # torch's compiler, a C++ or a CUDA compiler failed or is missing
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RequestError(
            f"runtime.compile=true: torch.compile doesn't work here ({reason[:160]})."
            "\nInstall a C++ compiler (Debian: g++), or leave runtime.compile=false."
        ) from None


def device_name(device: torch.device) -> str | None:
    """Return a GPU's product name; None for a CPU, whose name torch doesn't know."""
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
            raise RequestError(
                f"runtime.device={name}: not usable here ({reason_of(error)}).\nUse auto or cpu."
            ) from None
    if world.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise RequestError(
            f"runtime.device={name}: {world.size} workers can't share it.\nUse runtime.device=cuda, or cpu."
        )
    # Under torchrun, some of the processes may be on other machines.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    if here > torch.cuda.device_count():
        raise RequestError(
            f"runtime.workers={here}: each needs a GPU of its own, and there are {torch.cuda.device_count()}."
            "\nUse fewer workers, or runtime.device=cpu."
        )
    local = int(os.environ.get("LOCAL_RANK", world.rank))
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
