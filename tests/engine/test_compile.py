"""Compiled passes against plain ones; without a GPU, on the CPU.

In processes of their own: what compiling imports and patches would be met by every later test of this one.
"""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from pipeline.engine.runtime import set_up_runtime
from pipeline.errors import RequestError
from tests.distributed.test_world import CASES, alone, run, same

# Fused operations round otherwise, and seventy steps carry that on.
ROUNDING = 1e-3


def apart(function, *arguments):
    """What `function` returns in a process of its own, where warnings are errors as they are here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), warnings.simplefilter, ("error",)) as process:
        return process.submit(function, *arguments).result()


def compiled(name):
    network, more = CASES[name]
    found = run(network, compiled=True, **more)
    return {key: found[key] for key in ("status", "metrics", "test")}


def told_without_a_compiler():
    def broken(function):
        raise RuntimeError("no C++ compiler\nand a long story")

    torch.compile = broken
    try:
        set_up_runtime("cpu", "auto", in_sweep=False, compiled=True)
    except RequestError as error:
        return str(error)


@pytest.mark.long  # half a minute to compile
@pytest.mark.parametrize("name", ["whole", "pieces", "norm", "noise"])
def test_the_trajectory_is_that_of_plain_passes(name):
    same(apart(compiled, name), alone(name), ROUNDING)


def test_a_machine_that_can_not_compile_is_told_so():
    message = apart(told_without_a_compiler)
    assert "runtime.compile=true: " in message
    assert "(no C++ compiler)" in message
    assert len(message.splitlines()) == 2
