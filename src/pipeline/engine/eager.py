"""Optimizers without torch's compiler, which they import only to tell it to look away.

`torch.optim` imports `torch._dynamo` when an optimizer is made and again at its first step: one to two seconds of
processor time in every process that trains, for nothing where nothing is compiled. What is done about it rests on
attributes that torch sets on its own wrappers; where another version of torch has none, it just starts as slowly.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

# Methods of Optimizer that torch hides from its compiler, by a wrapper that caches what it calls.
HIDDEN = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
CACHED = "__dynamo_disable"


def keep_compiler_unimported() -> None:
    """Let the optimizers' bookkeeping call itself, where the compiler isn't loaded anyway."""
    if "torch._dynamo" in sys.modules:
        return
    for name in HIDDEN:
        original = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if original is not None and not hasattr(original, CACHED):
            setattr(original, CACHED, original)


def step_function(optimizer: Optimizer) -> Callable[[], Any]:
    """What `optimizer.step` computes, hooks included; without importing the compiler where torch lets it be."""
    wrapped = type(optimizer).step
    if "step" in vars(optimizer) or "torch._dynamo" in sys.modules:
        return optimizer.step
    while (inner := getattr(wrapped, "__wrapped__", None)) is not None:
        if wrapped.__code__.co_name == "_use_grad":
            return functools.partial(Optimizer.profile_hook_step(_with_grad_mode(inner)), optimizer)
        wrapped = inner
    return optimizer.step


def _with_grad_mode(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` under the gradient mode that torch's own wrapper would set."""

    @functools.wraps(step)
    def call(optimizer: Optimizer) -> Any:
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return step(optimizer)

    return call
