"""Trial passes of a run's model, so that what the model can't take is refused before anything is written.

They change nothing, but for lazy layers, which get their parameters in the first one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lr_study import reason_of
from pipeline.data import Splits
from pipeline.data.splits import Split
from pipeline.data.stream import in_order
from pipeline.distributed.world import World
from pipeline.engine.evaluate import EVALUATION_BATCH
from pipeline.engine.model_traits import FEW_EXAMPLES, training_pass
from pipeline.errors import RequestError


def check_evaluation_pass(model: nn.Module, splits: Splits, world: World) -> None:
    """Refuse a model that images don't fit, or whose output doesn't fit the classes.

    It is tried on two examples; on one where an evaluation makes such a pass.

    Raises:
        RequestError: it doesn't fit.
    """
    parts = (splits.val, splits.test)
    count = min(2, len(splits.train), *(world.smallest_pass(len(part), EVALUATION_BATCH) for part in parts))
    images, _ = next(iter(splits.train.batches(in_order(count, count))))
    model.eval()
    # Not in inference mode: lazy layers make their parameters here, and such tensors could not be trained.
    with torch.no_grad():
        error = _error_of(lambda: model(images), count, splits.classes)
    if error is not None:
        raise _misfit(error, count, splits.train) from error


def check_training_passes(model: nn.Module, splits: Splits, batch: int, micro_batch: int | None, world: World) -> None:
    """Refuse a model that can't take the smallest forward pass of training, as batch norm can't normalise one value.

    A few examples are tried first: mostly these are enough. The types of layers decide nothing: batch norm takes one
    image that is larger than a pixel.

    Raises:
        RequestError: it can't take so few examples, or can't be trained at all.
    """

    def error_with(count: int) -> Exception | None:
        return _error_of(lambda: training_pass(model, splits.train, count), count, splits.classes)

    smallest = world.smallest_pass(batch, micro_batch or batch)
    few = min(smallest, FEW_EXAMPLES)
    error = error_with(few)
    if error is not None and few < smallest:
        error = error_with(smallest)
    if error is None:
        return
    more = range(smallest + 1, min(smallest + FEW_EXAMPLES, len(splits.train)) + 1)
    needed = next((count for count in more if error_with(count) is None), None)
    if needed is None:
        raise _misfit(error, smallest, splits.train, " in training") from error
    asked = f"batch={batch}"
    asked += f", batching.micro_batch={micro_batch}" if micro_batch else ""
    asked += f", runtime.workers={world.size}" if world.size > 1 else ""
    raise RequestError(
        f"{asked}: a forward pass of training gets {smallest} example(s), and the model needs {needed} or more."
        f"\nUse, for example, {_larger_passes(batch, micro_batch, world, needed)}. The model says: {reason_of(error)}."
    ) from error


def _error_of(forward: Callable[[], Any], count: int, classes: int) -> Exception | None:
    """Return what `forward` raises, if anything; raise RequestError if it gives no logits for `count` images."""
    try:
        logits = forward()
    except Exception as error:  # of torch, or of a user's own layer
        return error
    if isinstance(logits, Tensor) and tuple(logits.shape) == (count, classes):
        return None
    found = f"has shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"is a {type(logits).__name__}"
    raise RequestError(
        f"model: its output for {count} image(s) {found}, not a tensor of shape ({count}, {classes})."
        "\nIt must give one logit for each class: set its output to ${dataset.classes}."
    )


def _misfit(error: Exception, count: int, split: Split, where: str = "") -> RequestError:
    images, _ = next(iter(split.batches(in_order(1, 1))))
    shape = "×".join(map(str, images.shape[1:]))
    return RequestError(
        f"model: {count} image(s) of {shape} do not fit it{where}: {reason_of(error)}."
        "\nUse another model, or set its input to ${dataset.shape}."
    )


def _larger_passes(batch: int, micro_batch: int | None, world: World, needed: int) -> str:
    """Return a request whose passes have `needed` examples or more each: the nearest micro-batch, else a batch."""
    largest = World(0, world.size).shard(batch)[1]
    fitting = [size for size in range(needed, largest + 1) if world.smallest_pass(batch, size) >= needed]
    if fitting and micro_batch:
        return f"batching.micro_batch={min(fitting, key=lambda size: abs(size - micro_batch))}"
    return f"batch={needed * world.size}" + (" batching.micro_batch=null" if micro_batch else "")
