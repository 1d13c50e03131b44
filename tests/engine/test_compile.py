"""Compiled passes against plain ones, on the CPU.

Each in a process of its own: what compiling imports and patches would affect every later test of this one.
"""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from pipeline.engine.runtime import set_up_runtime
from pipeline.errors import RequestError
from tests.distributed.test_world import CASES, run, same, single_process

# Fused operations round differently, and seventy steps amplify it.
ROUNDING = 1e-3


def apart(function, *arguments):
    """Return what `function` returns in a process of its own, where warnings are errors, too."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), warnings.simplefilter, ("error",)) as process:
        return process.submit(function, *arguments).result()


def compiled(name):
    network, more = CASES[name]
    found = run(network, compiled=True, **more)
    return {key: found[key] for key in ("status", "metrics", "test")}


def refusal_without_a_compiler():
    def broken(function):
        raise RuntimeError("no C++ compiler\nand a long story")

    torch.compile = broken
    try:
        set_up_runtime("cpu", "auto", in_sweep=False, compiled=True)
    except RequestError as error:
        return str(error)


@pytest.mark.long  # half a minute to compile
@pytest.mark.parametrize("name", ["whole", "micro-batches", "norm", "noise"])
def test_compiled_passes_give_the_trajectory_of_plain_ones(name):
    same(apart(compiled, name), single_process(name), ROUNDING)


def test_a_machine_without_a_compiler_is_refused():
    message = apart(refusal_without_a_compiler)
    assert "runtime.compile=true: " in message
    assert "(no C++ compiler)" in message
    assert len(message.splitlines()) == 2
