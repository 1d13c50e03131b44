"""Device and threads, chosen once for each process."""

from dataclasses import dataclass

import torch

from pipeline.errors import RequestError


@dataclass(frozen=True)
class Runtime:
    """What a run computes on: a torch device, and threads for each operation on the CPU."""

    device: torch.device
    threads: int


def set_up_runtime(device: str, threads: int | str, one_of_many: bool) -> Runtime:
    """Choose device and threads, and tell torch.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps` …
        threads: a number, or `auto`: torch's own choice; 1 where `one_of_many` runs shares the CPU.
        one_of_many: whether other trials run beside this one.

    Raises:
        RequestError: a device that isn't there, or a number of threads that isn't one.
    """
    chosen = _device(device)
    if threads != "auto" and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise RequestError(f"runtime.threads={threads}: it must be auto or a whole number from 1 up.")
    if threads == "auto":
        threads = 1 if one_of_many and chosen.type == "cpu" else torch.get_num_threads()
    assert isinstance(threads, int)
    torch.set_num_threads(threads)
    return Runtime(chosen, threads)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"runtime.device={name}: not usable here ({reason}).\nUse auto or cpu.") from None
    return device
