"""The gradient noise scale tr Σ / |G|² (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.9 and appendix A.1).

Σ is the covariance of the gradients of single examples, and G is their mean, the true gradient. The scale is a number
of examples: well below it a larger batch pays off in full, far above it hardly at all. It grows during training and
depends on the LR, so a value needs the time at which it was measured.

There are two estimators: `NoiseSample` takes the gradient of each example of a sample, and `MicroBatchNoise` compares
the gradients of a step's micro-batches. Numerator and denominator are unbiased, their ratio is not: several estimates
are averaged before the division. Examples count as independent draws. Drawn without replacement from a training set
of N, |G|² lies tr Σ / N below the squared gradient of the training set itself.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pipeline.data.splits import Split
from pipeline.data.stream import Slice, derive_seed
from pipeline.distributed.world import SINGLE_PROCESS, World
from pipeline.engine.model_traits import unchanged

# Most bytes of per-example gradients at once, if one example's are fewer. Measured on a CPU with 256 examples: 64 MB is
# as fast for the mlp, and a third slower or more for the simple_cnn.
GRADIENT_BYTES = 16 * 2**20
# About how many steps between two evaluations are measured by micro-batches: more don't make the mean more exact.
MEASURED_STEPS = 64


@dataclass(frozen=True)
class NoiseScale:
    """Estimates of tr Σ (`trace`) and |G|² (`squared_norm`), in (nats per unit of parameter)²."""

    trace: float
    squared_norm: float

    @property
    def value(self) -> float | None:
        """tr Σ / |G|² in examples; None if the estimate of |G|² is at or below 0, which few examples lead to."""
        ratio = self.trace / self.squared_norm if self.squared_norm > 0 else math.nan
        return ratio if math.isfinite(ratio) else None

    def metrics(self, name: str) -> dict[str, float]:
        """Return `name/trace`, `name/squared_norm` and, if the scale has a value, `name`."""
        parts = {f"{name}/trace": self.trace, f"{name}/squared_norm": self.squared_norm}
        return parts if self.value is None else {name: self.value, **parts}


@dataclass(frozen=True)
class NoiseSample:
    """When per-example gradients are taken, and of how many examples."""

    epochs: tuple[int, ...] = ()  # numbers of evaluations, from 1, or from the end (-1 the last); none means never
    examples: int = 512  # drawn from the training split; 2 or more

    def measure(self, model: nn.Module, split: Split, seed: int) -> NoiseScale:
        """Return the noise scale on a sample of `split`, augmented as in training; `seed` determines the sample.

        The model is in evaluation mode: batch norm with batch statistics has no per-example gradients. Parameters,
        their `.grad`, buffers, training mode and random generators are unchanged afterwards.
        """
        draw = derive_seed("noise scale", seed)
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(draw))[: self.examples]
        chunk = examples_at_once(model)
        slices = (Slice(order[start : start + chunk], start) for start in range(0, len(order), chunk))
        with unchanged(model):
            model.eval()
            batches = split.batches(slices, augment_seed=draw)
            return noise_scale_of_examples(per_example_gradients(model, *batch) for batch in batches)


def examples_at_once(model: nn.Module) -> int:
    """Return how many examples' gradients fit in `GRADIENT_BYTES`; at least one."""
    bytes_each = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return max(1, GRADIENT_BYTES // bytes_each)


def per_example_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> list[Tensor]:
    """Return the gradient of each example's loss: for each trainable parameter of shape [...], a tensor [n, ...].

    `model` is in evaluation mode; `loss` takes outputs and labels [1, ...].
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss_of_one(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return loss(functional_call(model, parameters, (image[None],)), label[None])

    gradients = vmap(grad(loss_of_one), in_dims=(None, 0, 0), randomness="different")
    return list(gradients(parameters, images, labels).values())


def noise_scale_of_examples(chunks: Iterable[Sequence[Tensor]]) -> NoiseScale:
    """Return unbiased tr Σ and |G|² from per-example gradients; only their sum and their squares' sum are kept.

    tr Σ = (Σᵢ|gᵢ|² − n|ḡ|²) / (n − 1) and |G|² = |ḡ|² − tr Σ / n.

    A chunk holds the gradients of some examples: for each parameter a tensor [examples, ...]; n ≥ 2 in all.
    """
    count, squares = 0, 0.0
    sums: list[Tensor] = []
    for gradients in chunks:
        count += len(gradients[0])
        squares += _squares(gradients)
        totals = [gradient.sum(dim=0) for gradient in gradients]
        sums = [old + new for old, new in zip(sums, totals, strict=True)] if sums else totals
    mean_squared = _squares(sums) / count**2
    trace = (squares - count * mean_squared) / (count - 1)
    return NoiseScale(trace, mean_squared - trace / count)


def _squares(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.square().sum() for tensor in tensors).item()  # type: ignore[union-attr]


class MicroBatchNoise:
    """The noise scale from gradient accumulation: micro-batches of one step differ by noise alone.

    Within the `with` block, a hook on each parameter takes the norm of a micro-batch's gradient before it is
    accumulated. No backward pass and no copy of a gradient is added, and the host waits for the device in
    `pop_estimate` only. If many steps lie between two evaluations, every n-th is measured. Measured on a CPU, with
    every step measured: 2 to 8 % of training time if a micro-batch takes 3 ms or more, 17 to 24 % if it takes less
    than one, as 32 digits through the mlp do.

    With micro-batches of bⱼ examples, B = Σbⱼ, k of them, gⱼ the gradient of a micro-batch's mean loss and g that of
    the whole batch: E|gⱼ|² = |G|² + tr Σ/bⱼ, so the mean with weights bⱼ/B is E Σⱼ(bⱼ/B)|gⱼ|² = |G|² + tr Σ·k/B.
    That is the paper's small batch at B/k examples, exactly so if the last micro-batch is smaller, too, and
    E|g|² = |G|² + tr Σ/B is its large one. In training mode the noise of dropout and batch norm is included.

    Args:
        model, batch: whose gradients are measured, and B.
        micro_batch: most examples in one backward pass; None is the whole shard. One pass a step gives no estimate.
        world: the processes that make the backward passes of a step together.
        steps: about how many lie between two evaluations.
    """

    def __init__(
        self, model: nn.Module, batch: int, micro_batch: int | None, world: World = SINGLE_PROCESS, steps: float = 1
    ) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._batch = batch
        self._world = world
        passes = world.passes_per_rank(batch, micro_batch)
        self._passes, self._own_passes = sum(passes), passes[world.rank]
        self._norms: list[Tensor] = []  # of the current micro-batch's gradient, one a parameter
        # (bⱼ/B)|gⱼ|² of this step; allocated once, for the reason that `MetricAccumulator` gives.
        self._small = next(model.parameters()).new_zeros(self._own_passes)
        self._done = 0  # passes of this step
        self._sums: Tensor | None = None  # Σⱼ(bⱼ/B)|gⱼ|² and |g|², summed over the measured steps
        self._every = max(1, round(steps / MEASURED_STEPS))
        self._steps = 0  # since the last estimate; every `_every`-th is measured, from the first on

    def __enter__(self) -> Self:
        measured = self._parameters if self._passes > 1 else []
        self._hooks = [p.register_hook(self._on_gradient) for p in measured]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _is_measured(self) -> bool:
        return self._steps % self._every == 0

    def _on_gradient(self, gradient: Tensor) -> None:
        if self._is_measured():
            self._norms.append(torch.linalg.vector_norm(gradient))

    def after_backward(self, examples: int) -> None:
        """Record a micro-batch of `examples`, whose loss was their mean times `examples` / B times the world size."""
        if self._passes == 1:
            return
        # Apart from the world size, the gradient was (bⱼ/B)gⱼ: its square times B/bⱼ is what the sum needs.
        if self._is_measured():
            self._small[self._done] = _squared(self._norms) * (self._batch / examples / self._world.size**2)
            self._norms.clear()
        self._done += 1
        if self._done < self._own_passes:
            return
        if self._is_measured():
            whole = _squared([torch.linalg.vector_norm(p.grad) for p in self._parameters if p.grad is not None])
            sums = torch.stack([self._small.sum(), whole])
            self._sums = sums if self._sums is None else self._sums + sums
        self._steps += 1
        self._done = 0

    def pop_estimate(self) -> NoiseScale | None:
        """Return the estimate over the steps since the last call; None if a step has a single micro-batch."""
        if self._sums is None:
            return None
        measured = -(-self._steps // self._every)
        own, whole = (self._sums.cpu().double() / measured).tolist()
        (small,) = self._world.all_reduce_sum([own])
        self._sums, self._steps = None, 0
        trace = (small - whole) / ((self._passes - 1) / self._batch)
        return NoiseScale(trace, whole - trace / self._batch)


def _squared(norms: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(norms)).square()
