"""Several replicates of one network in one set of tensors, so that one operation computes for all of them.

A small network's step is a few dozen operations of a few microseconds, each of which a processor or GPU starts for a
few hundred numbers. Stacked, each operation has K times as many to do and is started once.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from pipeline.data.replicates import StackedSplit
from pipeline.data.splits import InMemorySplit, Splits
from pipeline.data.stream import in_order
from pipeline.engine.model_traits import FEW_EXAMPLES, changes_in_training
from pipeline.engine.optimizer_calls import clear_function, step_function
from pipeline.engine.runtime import FP32, Precision

# torch's optimizers whose update of a number depends on that number, its gradient and its own state alone: on stacked
# parameters they do what they do on each replicate's.
ELEMENTWISE = {
    getattr(torch.optim, name)
    for name in (
        *("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"),
        *("RMSprop", "Adagrad", "Adadelta", "ASGD", "Rprop"),
    )
}
# Examples of all replicates in one forward pass of an evaluation: networks that gain from a stack are small.
STACK_EVALUATION_BATCH = 8192
MakeOptimizer = Callable[[Sequence[Tensor]], torch.optim.Optimizer]


def why_not_stacked(model: nn.Module, optimizer: torch.optim.Optimizer, splits: Splits) -> str | None:
    """Return why replicates of `model` can't train as a stack, in a few words; None if they can."""
    if type(optimizer) not in ELEMENTWISE:
        return f"{type(optimizer).__name__} doesn't work element by element"
    if not all(isinstance(part, InMemorySplit) for part in (splits.train, splits.val, splits.test)):
        return f"{splits.name} isn't held in memory"
    if (changed := changes_in_training(model, splits.train)) is not None:
        return changed
    try:
        images, _ = next(iter(splits.train.batches(in_order(FEW_EXAMPLES, FEW_EXAMPLES))))
        with torch.no_grad():
            Stack([model], lambda parameters: optimizer).forward(images[None])
    except Exception:  # torch's vmap, or the model itself, can't
        return "torch.vmap can't run this model"
    return None


class Stack:
    """K networks of one architecture that train together, each on its own data.

    Args:
        models: the networks, with their initial weights, on one device; `why_not_stacked` has passed the first.
        make_optimizer: makes the optimizer over parameters of shape [K, ...]; its groups hold the peak LRs.
    """

    def __init__(self, models: Sequence[nn.Module], make_optimizer: MakeOptimizer, precision: Precision = FP32) -> None:
        self.size = len(models)
        self._models = models
        self._parameters, self._buffers = stack_module_state(list(models))
        trained = dict(models[0].named_parameters())
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(trained[name].requires_grad)
        self._trained = [parameter for parameter in self._parameters.values() if parameter.requires_grad]
        self._precision = precision
        self.optimizer = make_optimizer(self._trained)
        self._peak_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._update = step_function(self.optimizer)
        self._clear_gradients = clear_function(self.optimizer)
        first = models[0]

        def forward_one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
            return functional_call(first, (parameters, buffers), (images,))

        self._vmapped = vmap(forward_one)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [K, n, classes] for images [K, n, C, H, W]."""
        return self._vmapped(self._parameters, self._buffers, images)

    def step(self, images: Tensor, labels: Tensor, lr_factor: float) -> tuple[Tensor, Tensor]:
        """Take an optimizer step on images [K, n, …] and labels [K, n]; return mean losses and wrong answers, [K].

        The sum of the losses has, for each replicate's parameters, the gradient of that replicate's own loss.
        """
        for group, lr in zip(self.optimizer.param_groups, self._peak_lrs, strict=True):
            group["lr"] = lr * lr_factor
        self._clear_gradients()
        with self._precision.context():
            logits = self.forward(images)
        losses = _losses(logits.float(), labels).mean(dim=1)
        losses.sum().backward()
        self._update()
        with torch.no_grad():
            return losses.detach(), (logits.argmax(dim=2) != labels).sum(dim=1)

    def train(self, mode: bool = True) -> None:
        """Set the networks' training mode."""
        self._models[0].train(mode)

    def evaluate(self, split: StackedSplit) -> tuple[list[float], list[float]]:
        """Return each replicate's mean cross-entropy in nats and fraction of wrong answers over its part of `split`."""
        self.train(False)
        losses, wrong = [], []
        with torch.no_grad():
            piece = max(1, STACK_EVALUATION_BATCH // self.size)
            for images, labels in split.batches(in_order(len(split), piece, device=split.index_device)):
                logits = self.forward(images)
                losses.append(_losses(logits, labels).sum(dim=1))
                wrong.append((logits.argmax(dim=2) != labels).sum(dim=1))
            sums = torch.stack([torch.stack(losses).sum(0).double(), torch.stack(wrong).sum(0).double()]).tolist()
        self.train()
        return tuple([total / len(split) for total in of_all] for of_all in sums)  # type: ignore[return-value]

    def grad_norms(self) -> list[float]:
        """Return the Euclidean norm of each replicate's last gradient over all parameters."""
        gradients = [p.grad for p in self._trained if p.grad is not None]
        squares = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients])
        return squares.sum(dim=0).sqrt().tolist()

    def model(self, index: int) -> nn.Module:
        """Return the network of one replicate, with its present weights."""
        model = self._models[index]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self._parameters[name][index])
        return model


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy [K, n] of each example."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
