"""Mean loss and error over a whole split."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.data.splits import Split
from pipeline.data.stream import in_order
from pipeline.engine.workers import ALONE, Workers

# Large enough to keep a processor busy, small enough for memory: assumed. It changes no result beyond rounding.
EVALUATION_BATCH = 1024


def evaluate(
    model: nn.Module, split: Split, piece: int = EVALUATION_BATCH, workers: Workers = ALONE
) -> tuple[float, float]:
    """Mean cross-entropy in nats, and the fraction of wrong answers, over all of `split`, in evaluation mode.

    Each of `workers` takes a share, and all are told the result. In single precision, whatever the training's is.
    """
    was_training = model.training
    model.eval()
    loss, wrong = 0.0, 0
    first, last = workers.share(len(split))
    with torch.inference_mode():
        for images, labels in split.batches(in_order(last, piece, first)):
            logits = model(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            wrong += int((logits.argmax(dim=1) != labels).sum())
    model.train(was_training)
    loss, wrong_total = workers.total([loss, wrong])
    return loss / len(split), wrong_total / len(split)
