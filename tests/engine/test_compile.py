"""Compiled passes against plain ones; without a GPU, on the CPU."""

import pytest
import torch

from pipeline.engine import runtime
from pipeline.engine.runtime import set_up_runtime
from pipeline.errors import RequestError
from tests.engine.test_workers import CASES, alone, run, same

# Fused operations round otherwise, and seventy steps carry that on.
ROUNDING = 1e-3


@pytest.mark.long  # half a minute to compile
@pytest.mark.parametrize("name", ["whole", "pieces", "norm", "noise"])
def test_the_trajectory_is_that_of_plain_passes(name):
    network, more = CASES[name]
    same(run(network, compiled=True, **more), alone(name), ROUNDING)


def test_a_machine_that_can_not_compile_is_told_so(monkeypatch):
    def broken(function):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    runtime._try_compiler.cache_clear()
    with pytest.raises(RequestError, match=r"runtime.compile=true: .*\(no C\+\+ compiler\)") as error:
        set_up_runtime("cpu", "auto", one_of_many=False, compiled=True)
    assert len(str(error.value).splitlines()) == 2
