"""What a model does in training, found out by passes that leave no trace in it."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.data.splits import Split
from pipeline.data.stream import in_order

# Relative to the largest output: well above what rounding does to single precision.
ROUNDING = 1e-3
# Passes that a model gets to skip some layer, where it draws lots: one that skips each of four layers in every tenth
# pass does so in all but one of 800 tries.
PASSES = 16


def convolves(model: nn.Module) -> bool:
    """Whether it convolves images."""
    return any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())


def has_unused_parameters(model: nn.Module, split: Split) -> bool:
    """Whether some parameters get no gradient from a training pass, always or by lot."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with _probing(model, split, examples=2) as (logits_of, images):
        for _ in range(PASSES):
            before = torch.get_rng_state()
            gradients = torch.autograd.grad(logits_of(images).sum(), trained, allow_unused=True)
            if any(gradient is None for gradient in gradients):
                return True
            if torch.equal(torch.get_rng_state(), before):
                return False  # nothing was drawn: the next pass would be the same
    return False


def depends_on_batch(model: nn.Module, split: Split) -> bool:
    """Whether an example's logits in training depend on which others pass with it, as with batch norm or dropout."""
    layers = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    if any(isinstance(module, layers) for module in model.modules()):
        return True
    # Somebody's own layers may do the same.
    with torch.no_grad(), _probing(model, split, examples=4) as (logits_of, images):
        together = logits_of(images)
        apart = torch.cat([logits_of(piece) for piece in images.split(2)])
    return not bool((together - apart).abs().max() <= ROUNDING * together.abs().max())


@contextlib.contextmanager
def _probing(model: nn.Module, split: Split, examples: int) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """(training passes of `model`, a few images): buffers, mode and random generators are as before afterwards."""
    count = min(examples, len(split))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    device = next(model.parameters()).device
    was_training = model.training
    # A data loader draws from torch's own generator, and so may a model.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        images, _ = next(iter(split.batches(in_order(count, count))))
        try:
            yield lambda given: functional_call(model.train(), buffers, (given,)), images
        finally:
            model.train(was_training)
