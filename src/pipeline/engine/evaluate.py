"""Mean loss and error over a whole split."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.splits import Split
from pipeline.data.stream import in_order
from pipeline.distributed.world import SINGLE_PROCESS, World

# Large enough to keep a processor busy, small enough for memory: assumed. It changes no result beyond rounding.
EVALUATION_BATCH = 1024


def evaluate(
    model: nn.Module, split: Split, piece: int = EVALUATION_BATCH, world: World = SINGLE_PROCESS
) -> tuple[float, float]:
    """Mean cross-entropy in nats, and the fraction of wrong answers, over all of `split`, in evaluation mode.

    Each of `workers` takes a share, and all are told the result. In single precision, whatever the training's is. A
    device that runs ahead is waited for once, at the end.
    """
    was_training = model.training
    model.eval()
    sums: list[Tensor] = []  # of each piece: its losses, and its wrong answers
    first, last = world.shard(len(split))
    slices = in_order(last, piece, first, getattr(split, "index_device", None))
    with torch.inference_mode():
        for images, labels in split.batches(slices):
            logits = model(images)
            sums.append(F.cross_entropy(logits, labels, reduction="sum"))
            sums.append((logits.argmax(dim=1) != labels).sum())
        seen = torch.stack(sums).tolist() if sums else []
    model.train(was_training)
    loss, wrong = world.all_reduce_sum([sum(seen[::2]), sum(seen[1::2])])
    return loss / len(split), wrong / len(split)
