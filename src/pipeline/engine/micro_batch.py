"""The micro-batch that `batching.micro_batch=auto` stands for."""

import torch
from torch import nn

from pipeline.data.splits import Split
from pipeline.distributed.world import SINGLE_PROCESS, World
from pipeline.engine.model_traits import convolves, depends_on_batch
from pipeline.engine.runtime import FP32, Precision

# The simple_cnn at batch 2048, two threads: 0.94, 0.98 and 1.00 of the whole batch's speed in micro-batches of 256, 512
# and 1024, with 0.72, 0.82 and 0.95 of the bare loop's peak memory; the whole batch takes 1.29. In bfloat16 0.94 and
# 0.96 in micro-batches of 512 and 1024, and the whole batch takes 0.92 of the memory (benchmarks/loop.py --pieces).
LARGEST = {"fp32": 1024, "bf16": 2048}


def chosen_micro_batch(
    asked: int | str | None,
    model: nn.Module,
    split: Split,
    device: torch.device,
    batch: int,
    world: World = SINGLE_PROCESS,
    precision: Precision = FP32,
) -> int | None:
    """Return the most examples in one forward pass; None is the rank's whole shard of the batch.

    `auto` cuts the batch where that saves memory, costs no speed and changes no number beyond rounding: on a CPU, for
    networks with convolutions that treat each example by itself, into equal micro-batches of at most `LARGEST`.

    Args:
        asked: `auto`, a number, or None.
        model: on `device`.
        split: the model is tried on a few of its examples.
        device: of the training.
        batch: examples in one optimizer step.
        world: the processes that share it.
        precision: of forward passes.
    """
    if asked is None or isinstance(asked, int):
        return asked
    largest_shard = World(0, world.size).shard(batch)[1]
    passes = -(-largest_shard // LARGEST[precision.name])
    if passes == 1 or device.type != "cpu" or not convolves(model) or depends_on_batch(model, split):
        return None
    return -(-largest_shard // passes)
