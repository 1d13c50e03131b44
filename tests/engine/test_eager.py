"""Optimizer steps without torch's compiler: the same numbers, hooks and gradient modes as torch's own."""

import subprocess
import sys

# In a process of its own: others of these tests load the compiler.
CHECK = """
import sys, torch
from torch import nn
from pipeline.engine.eager import keep_compiler_unimported, step_function

OURS = {ours}
if OURS:
    keep_compiler_unimported()
for kind in ("SGD", "AdamW", "RMSprop"):
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, weight_decay=0.01)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    step = step_function(optimizer) if OURS else optimizer.step
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(7, 5)).square().mean().backward()
        step()
        assert torch.is_grad_enabled()
    optimizer.load_state_dict(optimizer.state_dict())
    assert called == ["before", "after"] * 3
    assert all(p.is_leaf and p.requires_grad for p in model.parameters())
    print([p.tolist() for p in model.parameters()])
print("torch._dynamo" in sys.modules)
"""


def test_the_steps_are_torchs_own_and_the_compiler_stays_out():
    said = {}
    for ours in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", CHECK.format(ours=ours)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said[ours] = done.stdout.splitlines()
    assert said[True][:3] == said[False][:3]
    assert (said[True][3], said[False][3]) == ("False", "True")


def test_an_optimizer_that_is_not_wrapped_as_torch_wraps_them_is_called_as_it_is():
    import torch

    from pipeline.engine.eager import step_function

    class Own(torch.optim.Optimizer):
        def step(self, closure=None):
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p -= self.param_groups[0]["lr"] * p.grad

    weight = torch.ones(2, requires_grad=True)
    weight.sum().backward()
    step_function(Own([weight], {"lr": 0.5}))()
    assert weight.tolist() == [0.5, 0.5]
