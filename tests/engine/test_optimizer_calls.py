"""Optimizer steps without torch's wrappers and compiler: the same numbers, hooks and gradient modes."""

import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

from pipeline.engine.optimizer_calls import clear_function, fused_if_possible, step_function

# In a process of its own: other tests import the compiler.
CHECK = """
import itertools, sys, torch
from torch import nn
from pipeline.engine.optimizer_calls import clear_function, keep_compiler_unimported, step_function

OURS = {ours}
if OURS:
    keep_compiler_unimported()
for HOOKS, kind in itertools.product((False, True), ("SGD", "AdamW", "RMSprop")):
    if HOOKS and kind == "SGD":
        print("torch._dynamo" in sys.modules, file=sys.stderr)
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, weight_decay=0.01)
    called = []
    if HOOKS:
        optimizer.register_step_pre_hook(lambda *_: called.append("before"))
        optimizer.register_step_post_hook(lambda *_: called.append("after"))
    step = step_function(optimizer) if OURS else optimizer.step
    clear = clear_function(optimizer) if OURS else optimizer.zero_grad
    for _ in range(3):
        clear()
        model(torch.randn(7, 5)).square().mean().backward()
        step()
        assert torch.is_grad_enabled()
    optimizer.load_state_dict(optimizer.state_dict())
    assert called == ["before", "after"] * 3 * HOOKS
    assert all(p.is_leaf and p.requires_grad for p in model.parameters())
    print([p.tolist() for p in model.parameters()])
"""


def test_steps_equal_torchs_own_with_hooks_and_without():
    printed = {}
    for ours in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", CHECK.format(ours=ours)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed[ours] = done.stdout.splitlines()
        assert done.stderr == f"{not ours}\n"  # whether the steps without hooks have imported the compiler
    assert printed[True] == printed[False]
    assert len(printed[True]) == 6


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "kind",
    [
        functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
        functools.partial(torch.optim.Adam, lr=0.01),
        functools.partial(torch.optim.AdamW, lr=0.01),
    ],
)
def test_a_fused_optimizer_computes_what_the_plain_one_does(kind, memory_format):
    weights = []
    for make in (fused_if_possible, lambda kind, parameters: kind(parameters)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
        model = model.double().to(memory_format=memory_format)
        optimizer = make(kind, list(model.parameters()))
        step = step_function(optimizer)
        for _ in range(10):
            clear_function(optimizer)()
            model(torch.randn(16, 3, 8, 8, dtype=torch.float64)).logsumexp(1).mean().backward()
            step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert bool(optimizer.defaults["fused"]) == (make is fused_if_possible)
    torch.testing.assert_close(*weights, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("given", [{"fused": False}, {"foreach": True}, {"differentiable": True}])
def test_a_given_implementation_of_an_optimizer_stays(given):
    make = functools.partial(torch.optim.SGD, lr=0.1, **given)
    (key,) = given
    optimizer = fused_if_possible(make, [torch.zeros(2, requires_grad=True)])
    assert optimizer.defaults[key] == given[key]
    assert not optimizer.defaults["fused"]


def test_an_optimizer_that_cannot_be_fused_is_made_without():
    weight = torch.zeros(2, requires_grad=True)
    assert isinstance(fused_if_possible(functools.partial(torch.optim.Rprop, lr=0.1), [weight]), torch.optim.Rprop)
    whole = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    optimizer = fused_if_possible(functools.partial(torch.optim.SGD, lr=0.1), [whole])
    assert not optimizer.defaults["fused"]


def test_an_optimizer_from_outside_torch_is_stepped_by_its_own_step():
    class Own(torch.optim.Optimizer):
        def step(self, closure=None):
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p -= self.param_groups[0]["lr"] * p.grad

    weight = torch.ones(2, requires_grad=True)
    weight.sum().backward()
    step_function(Own([weight], {"lr": 0.5}))()
    assert weight.tolist() == [0.5, 0.5]
