"""Mean loss and error over a whole split."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.data.splits import Split
from pipeline.data.stream import in_order

# Large enough to keep a processor busy, small enough for memory: assumed. It changes no result beyond rounding.
EVALUATION_BATCH = 1024


def evaluate(model: nn.Module, split: Split, piece: int = EVALUATION_BATCH) -> tuple[float, float]:
    """Mean cross-entropy in nats, and the fraction of wrong answers, over all of `split`, in evaluation mode."""
    was_training = model.training
    model.eval()
    loss, wrong = 0.0, 0
    with torch.inference_mode():
        for images, labels in split.batches(in_order(len(split), piece)):
            logits = model(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            wrong += int((logits.argmax(dim=1) != labels).sum())
    model.train(was_training)
    return loss / len(split), wrong / len(split)
