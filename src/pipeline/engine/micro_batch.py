"""How many examples pass through the network at once, where that is left to be chosen."""

import torch
from torch import nn

from pipeline.data.splits import Split
from pipeline.distributed.world import SINGLE_PROCESS, World
from pipeline.engine.model_traits import convolves, depends_on_batch
from pipeline.engine.precision import FULL, Precision

# The simple_cnn at batch 2048, two threads: 0.94, 0.98 and 1.00 of the whole batch's speed in pieces of 256, 512 and
# 1024, with 0.72, 0.82 and 0.95 of the bare loop's peak memory, where the whole batch takes 1.29. In bfloat16 0.94 and
# 0.96 in pieces of 512 and 1024, and 0.92 of the memory whole (benchmarks/loop.py --pieces).
PIECES = {"fp32": 1024, "bf16": 2048}


def chosen_micro_batch(
    asked: int | str | None,
    model: nn.Module,
    split: Split,
    device: torch.device,
    batch: int,
    world: World = SINGLE_PROCESS,
    precision: Precision = FULL,
) -> int | None:
    """The most examples in one forward pass; None is the whole batch, or a worker's whole share of it.

    `auto` cuts where that saves memory, costs no speed and changes no number beyond rounding: on a CPU, for networks
    that convolve images and see each example by itself, in equal pieces of at most 1024 examples, 2048 in bfloat16.

    Args:
        asked: `auto`, a number, or None.
        model: on `device`.
        split: has a few examples to try the model on.
        device: of the training.
        batch: examples in one optimizer step.
        workers: who share it.
        precision: of forward passes.
    """
    if asked is None or isinstance(asked, int):
        return asked
    largest_share = World(0, world.size).shard(batch)[1]
    pieces = -(-largest_share // PIECES[precision.name])
    if pieces == 1 or device.type != "cpu" or not convolves(model) or depends_on_batch(model, split):
        return None
    return -(-largest_share // pieces)
