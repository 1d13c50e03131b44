"""How many examples pass through the network at once, where that is left to be chosen."""

import torch
from torch import nn

from pipeline.data.splits import Split
from pipeline.engine.probe import convolves, minds_its_company
from pipeline.engine.workers import ALONE, Workers

# The simple_cnn at batch 2048, one thread, by processor time: 0.96, 0.98 and 0.99 of the whole batch's speed in pieces
# of 128, 256 and 512 (in bfloat16 0.96 and 1.0 of 256 and 512), with 0.69, 0.73 and 0.82 of the bare loop's peak
# memory, where the whole batch takes 1.28.
PIECE = 512


def chosen_micro_batch(
    asked: int | str | None,
    model: nn.Module,
    split: Split,
    device: torch.device,
    batch: int,
    workers: Workers = ALONE,
) -> int | None:
    """The most examples in one forward pass; None is the whole batch, or a worker's whole share of it.

    `auto` cuts where that saves memory, costs no speed and changes no number beyond rounding: on a CPU, for networks
    that convolve images and see each example by itself, in equal pieces of at most 512 examples.

    Args:
        asked: `auto`, a number, or None.
        model: on `device`.
        split: has a few examples to try the model on.
        device: of the training.
        batch: examples in one optimizer step.
        workers: who share it.
    """
    if asked is None or isinstance(asked, int):
        return asked
    largest_share = Workers(0, workers.count).share(batch)[1]
    pieces = -(-largest_share // PIECE)
    if pieces == 1 or device.type != "cpu" or not convolves(model) or minds_its_company(model, split):
        return None
    return -(-largest_share // pieces)
