"""How many replicates of a network train at once: as many as memory holds, and only where it is faster."""

import copy
import time
from collections.abc import Callable

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.splits import Split
from pipeline.data.stream import in_order
from pipeline.engine.optimizer_calls import clear_function, step_function
from pipeline.engine.stack import MakeOptimizer, Stack

# The sizes that are tried, so that the measurement stays short: small networks gain most at the larger one, and larger
# networks, whose stacked parameters must fit the cache, at the smaller one (benchmarks/stack.py). More were not tried.
CANDIDATES = (32, 8)
# Steps whose fastest counts. The first steps allocate the optimizer's state.
WARM_UP, TIMED = 2, 4
# A stack has to be so much faster than single runs to be used: less is noise.
GAIN = 1.1
# Share of the memory that is free now, divided among the processes that train here, that stacks may take.
MEMORY_SHARE = 0.5
# A parameter, its gradient, and two numbers of an adaptive optimizer.
NUMBERS_PER_PARAMETER = 4


def chosen_stack_size(
    count: int, model: nn.Module, make_optimizer: MakeOptimizer, split: Split, batch: int, processes: int = 1
) -> int:
    """Return how many of `count` replicates should train at once; 1 if single runs are as fast.

    `processes` is how many such runs share this machine's memory. Nothing of `model` changes.
    """
    images, labels = next(iter(split.batches(in_order(batch, batch))))
    most = max(1, int(_free_memory(images.device) * MEMORY_SHARE / processes / _bytes_each(model, images)))
    sizes = sorted({min(count, most, size) for size in CANDIDATES} - {1})
    best, seconds = 1, _seconds_single(model, make_optimizer, images, labels) / GAIN
    for size in sizes:
        each = _seconds_stacked(size, model, make_optimizer, images, labels) / size
        if each < seconds:
            best, seconds = size, each
    return best


def _seconds_stacked(
    size: int, model: nn.Module, make_optimizer: MakeOptimizer, images: Tensor, labels: Tensor
) -> float:
    stack = Stack([copy.deepcopy(model) for _ in range(size)], make_optimizer)
    stack.train()
    images, labels = (tensor.expand(size, *tensor.shape).contiguous() for tensor in (images, labels))
    return _fastest(lambda: stack.step(images, labels, 0.0)[0])


def _seconds_single(model: nn.Module, make_optimizer: MakeOptimizer, images: Tensor, labels: Tensor) -> float:
    model = copy.deepcopy(model).train()
    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad])
    update, clear = step_function(optimizer), clear_function(optimizer)

    def step() -> Tensor:
        clear()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        update()
        return loss.detach()

    return _fastest(step)


def _fastest(step: Callable[[], Tensor]) -> float:
    """Return the seconds of the fastest step; reading a loss waits for the device."""
    seconds = []
    for _ in range(WARM_UP + TIMED):
        started = time.perf_counter()
        step().sum().item()
        seconds.append(time.perf_counter() - started)
    return min(seconds[WARM_UP:])


def _bytes_each(model: nn.Module, images: Tensor) -> int:
    """Return about how many bytes a replicate takes: its images, what its backward pass keeps, and its parameters."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model(images)
    return kept + images.nbytes + NUMBERS_PER_PARAMETER * sum(p.nbytes for p in model.parameters())


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
