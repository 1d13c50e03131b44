"""Evaluation: mean loss and error over a split, and all metrics that are logged with an evaluation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.splits import Split, Splits
from pipeline.data.stream import in_order
from pipeline.distributed.world import SINGLE_PROCESS, World
from pipeline.engine.optimizer_step import Stepper
from pipeline.engine.stopping import Evaluation

# Assumed: large enough to keep a processor busy, small enough for memory. It changes no result beyond rounding.
EVALUATION_BATCH = 1024


def evaluate(
    model: nn.Module, split: Split, batch: int = EVALUATION_BATCH, world: World = SINGLE_PROCESS
) -> tuple[float, float]:
    """Return the mean cross-entropy in nats and the fraction of wrong answers over `split`, in evaluation mode.

    Each rank evaluates a shard, and all ranks return the same. Forward passes are in single precision, also where
    training isn't. The host waits for a GPU once, at the end.
    """
    was_training = model.training
    model.eval()
    sums: list[Tensor] = []  # of each batch: its losses, and its wrong answers
    start, stop = world.shard(len(split))
    slices = in_order(stop, batch, start, getattr(split, "index_device", None))
    with torch.inference_mode():
        for images, labels in split.batches(slices):
            logits = model(images)
            sums.append(F.cross_entropy(logits, labels, reduction="sum"))
            sums.append((logits.argmax(dim=1) != labels).sum())
        values = torch.stack(sums).tolist() if sums else []
    model.train(was_training)
    loss, wrong = world.all_reduce_sum([sum(values[::2]), sum(values[1::2])])
    return loss / len(split), wrong / len(split)


def evaluate_run(stepper: Stepper, splits: Splits, epoch: int, steps: int, train: dict[str, float]) -> Evaluation:
    """Return the `epoch`-th evaluation of a run, after `steps` steps, with every metric except the noise scale.

    `train` holds the metrics of training since the evaluation before.
    """
    val_loss, val_error = evaluate(stepper.model, splits.val, world=stepper.world)
    metrics = train | {
        "val/loss": val_loss,
        "val/error": val_error,
        "lr": stepper.optimizer.param_groups[0]["lr"],
        "grad_norm": stepper.grad_norm(),
        "optimizer_steps": steps,
        "examples": steps * stepper.batch,
    }
    return Evaluation(epoch, steps, metrics)
