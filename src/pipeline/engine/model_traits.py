"""What a model does in training, found by trial passes that don't change it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.data.splits import Split
from pipeline.data.stream import in_order
from pipeline.distributed.data_parallel import BATCH_NORMS

# Relative to the largest output: well above single precision's rounding.
ROUNDING = 1e-3
# Trial passes for models that skip layers at random. With four layers, each skipped in every tenth pass, all but one
# of 800 trials find a skipped one.
PASSES = 16
# torch's layers whose output depends on the rest of the batch.
OF_THE_BATCH = (
    *BATCH_NORMS,
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)
# Examples of a trial pass that need not be larger, where the run's own passes are not smaller.
FEW_EXAMPLES = 4


def convolves(model: nn.Module) -> bool:
    """Return whether `model` has two-dimensional convolutions."""
    return any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())


def training_pass(model: nn.Module, split: Split, examples: int) -> Any:
    """Return the output of a training pass of the first `examples`, which raises what the model raises."""
    with _trial_passes(model, split, examples) as (forward, images):
        return forward(images)


def has_unused_parameters(model: nn.Module, split: Split, examples: int = FEW_EXAMPLES) -> bool:
    """Return whether some parameters get no gradient from a training pass, in every pass or at random."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with _trial_passes(model, split, examples) as (forward, images):
        for _ in range(PASSES):
            before = torch.get_rng_state()
            gradients = torch.autograd.grad(forward(images).sum(), trained, allow_unused=True)
            if any(gradient is None for gradient in gradients):
                return True
            if torch.equal(torch.get_rng_state(), before):
                return False  # no random number was drawn: the next pass would be the same
    return False


def changes_in_training(model: nn.Module, split: Split) -> str | None:
    """Return what a training pass changes or draws beside its output, in a few words; None if nothing."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with _trial_passes(model, split, FEW_EXAMPLES) as (_, images), torch.no_grad():
        before = torch.get_rng_state()
        functional_call(model.train(), buffers, (images,))
        if not torch.equal(torch.get_rng_state(), before):
            return "the model draws random numbers"
    if any(not torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers()):
        return "the model keeps running averages"
    return None


def depends_on_batch(model: nn.Module, split: Split) -> bool:
    """Return whether an example's logits in training depend on the rest of its batch, as with batch norm or dropout."""
    if any(isinstance(module, OF_THE_BATCH) for module in model.modules()):
        return True
    # A user's own layers may do the same.
    with torch.no_grad(), _trial_passes(model, split, examples=4) as (forward, images):
        try:
            together = forward(images)
            apart = torch.cat([forward(pair) for pair in images.split(2)])
        except Exception:
            return True  # it can't take so few examples, and so looks at them together
    return not bool((together - apart).abs().max() <= ROUNDING * together.abs().max())


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the mode and the random generators after the block: a data loader and a model draw from torch's own."""
    device = next(model.parameters()).device
    was_training = model.training
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def _trial_passes(model: nn.Module, split: Split, examples: int) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Yield a function for training passes that change nothing, and a few images."""
    count = min(examples, len(split))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with unchanged(model):
        images, _ = next(iter(split.batches(in_order(count, count))))
        yield lambda given: functional_call(model.train(), buffers, (given,)), images
