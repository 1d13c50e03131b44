"""Optimizers with fewer calls for each step, and what torch imports for them: its compiler not at all, the rest early.

`torch.optim` imports `torch._dynamo` when an optimizer is made and at its first step, only to exclude itself from
compilation: one to two seconds of processor time in every process. Its wrappers around `step` and `zero_grad` take a
fifth of a small network's step each (the mlp at batch 32 on a CPU). Both are avoided here.
"""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

CACHED = "__dynamo_disable"


def keep_compiler_unimported() -> None:
    """Let the wrappers of Optimizer's methods call these directly, unless the compiler is imported already."""
    if "torch._dynamo" in sys.modules:
        return
    # Private part of torch: its wrappers cache what they call. Without that, the compiler is imported.
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        original = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if original is not None and not hasattr(original, CACHED):
            setattr(original, CACHED, original)


@functools.cache
def finish_imports() -> None:
    """Import what torch 2.15 would import in the first backward pass, beside the thread that imports MLflow."""
    torch.zeros(1, requires_grad=True).sum().backward()


def fused_if_possible(make: "functools.partial[Optimizer]", parameters: Sequence[Tensor]) -> Optimizer:
    """Return the optimizer that `make` makes over `parameters`, with `fused=True` if it takes that.

    A fused step updates each parameter in one pass. The mlp's step at batch 32 on a CPU takes a tenth less time;
    numbers differ by rounding. Its own `fused`, `foreach` or `differentiable` stays.
    """
    # What torch has fused optimizers for, which it checks at the first step only.
    fits = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    if fits and make.keywords.keys().isdisjoint({"fused", "foreach", "differentiable"}):
        # A class without this argument raises TypeError; one that can't fuse with the other arguments, RuntimeError.
        with contextlib.suppress(TypeError, RuntimeError):
            return make(parameters, fused=True)
    return make(parameters)


def step_function(optimizer: Optimizer, compiled: bool = False) -> Callable[[], Any]:
    """Return a function that does what `optimizer.step` does, without torch's wrappers.

    The compiler needs the wrappers, and so do hooks that are registered by now. A `step` that isn't of `torch.optim` is
    returned as it is.
    """
    wrapped = type(optimizer).step
    if compiled or "step" in vars(optimizer) or not wrapped.__module__.startswith("torch.optim."):
        return optimizer.step
    plain_step = inspect.unwrap(wrapped)
    if plain_step is wrapped or _has_hooks(optimizer):
        return optimizer.step

    def step() -> Any:
        with torch.set_grad_enabled(optimizer.defaults.get("differentiable", False)):
            return plain_step(optimizer)

    return step


def clear_function(optimizer: Optimizer) -> Callable[[], Any]:
    """Return a function that does what `optimizer.zero_grad` does: set all gradients to None."""
    if "zero_grad" in vars(optimizer) or type(optimizer).zero_grad is not Optimizer.zero_grad:
        return optimizer.zero_grad
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def clear() -> None:
        for p in parameters:
            p.grad = None

    return clear


def _has_hooks(optimizer: Optimizer) -> bool:
    """Return whether step hooks are registered."""
    # Private part of torch: without these attributes, steps go through torch's wrappers.
    module = sys.modules[Optimizer.__module__]
    return any(
        getattr(optimizer, f"_optimizer_step_{when}_hooks", True)
        or getattr(module, f"_global_optimizer_{when}_hooks", True)
        for when in ("pre", "post")
    )
