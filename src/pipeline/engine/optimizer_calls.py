"""Optimizers in as few calls as can be, and without torch's compiler.

`torch.optim` imports `torch._dynamo` when an optimizer is made and again at its first step, to tell it to look away:
one to two seconds of processor time in every process that trains, for nothing where nothing is compiled. And around
each step stand wrappers, which are a tenth of a small network's step. What is done about both rests on attributes that
torch sets on its own wrappers; where another version of torch has none, it is just as slow as torch.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Methods of Optimizer that torch hides from its compiler, by a wrapper that caches what it calls.
HIDDEN = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
CACHED = "__dynamo_disable"
# Where torch documents that it fuses an optimizer's step, if that kind can be fused.
FUSED_ON = ("cpu", "cuda")


def keep_compiler_unimported() -> None:
    """Let the optimizers' bookkeeping call itself, where the compiler isn't loaded anyway."""
    if "torch._dynamo" in sys.modules:
        return
    for name in HIDDEN:
        original = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if original is not None and not hasattr(original, CACHED):
            setattr(original, CACHED, original)


def fused_where_it_can_be(make: Callable[..., Optimizer], parameters: Sequence[Tensor]) -> Optimizer:
    """What `make` makes over `parameters`: in one pass over each where torch has that, with the same arithmetic.

    A step of the mlp by batches of 32 takes a tenth less by it on a CPU; numbers differ by rounding.

    Args:
        make: an optimizer's class, or a partial application of it; what is said there of `fused`, `foreach` or
            `differentiable` stays as it is.
        parameters: what is to be trained.
    """
    try:
        known = set(inspect.signature(make).parameters)
    except (TypeError, ValueError):  # something that Python can't look into
        known = set()
    said = make.keywords if isinstance(make, functools.partial) else {}
    can_be = "fused" in known and said.keys().isdisjoint({"fused", "foreach", "differentiable"})
    # torch says no at the first step only, so it is not left to that.
    if can_be and all(p.is_floating_point() and p.device.type in FUSED_ON for p in parameters):
        return make(parameters, fused=True)
    return make(parameters)


def step_function(optimizer: Optimizer, compiled: bool = False) -> Callable[[], Any]:
    """What `optimizer.step` computes, hooks included, if they are there by now; torch's profiler doesn't see it.

    Args:
        optimizer: of `torch.optim`, or any other, whose own `step` is then returned.
        compiled: whether torch's compiler is in use, which torch's wrappers are for.
    """
    wrapped = type(optimizer).step
    if "step" in vars(optimizer) or compiled:
        return optimizer.step
    while (inner := getattr(wrapped, "__wrapped__", None)) is not None:
        if wrapped.__code__.co_name == "_use_grad":
            step = _with_grad_mode(inner)
            return functools.partial(Optimizer.profile_hook_step(step) if _has_hooks(optimizer) else step, optimizer)
        wrapped = inner
    return optimizer.step


def clear_function(optimizer: Optimizer) -> Callable[[], Any]:
    """What `optimizer.zero_grad` does: let go of all gradients."""
    if "zero_grad" in vars(optimizer) or type(optimizer).zero_grad is not Optimizer.zero_grad:
        return optimizer.zero_grad
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def clear() -> None:
        for p in parameters:
            p.grad = None

    return clear


def _has_hooks(optimizer: Optimizer) -> bool:
    """Whether something is to be called around a step; it counts as if, where torch doesn't say."""
    own = [getattr(optimizer, f"_optimizer_step_{when}_hooks", True) for when in ("pre", "post")]
    module = sys.modules[Optimizer.__module__]
    of_all = [getattr(module, f"_global_optimizer_{when}_hooks", True) for when in ("pre", "post")]
    return any(own + of_all)


def _with_grad_mode(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` under the gradient mode that torch's own wrapper would set."""

    @functools.wraps(step)
    def call(optimizer: Optimizer) -> Any:
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return step(optimizer)

    return call
