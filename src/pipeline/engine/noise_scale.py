"""The gradient noise scale tr Σ / |G|² (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.9 and appendix A.1).

Σ is the covariance of the gradients of single examples and G their mean, the true gradient. The scale counts
examples: well below it a larger batch pays off in full, far above it hardly at all. It grows during training
and depends on the LR, so a value means nothing without when it was measured.

Numerator and denominator are unbiased, their ratio is not: estimates are averaged apart, and divided last.
Examples count as independent draws. Drawn without replacement from a training set of N, |G|² lies tr Σ / N
below the squared gradient of the training set itself.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pipeline.data.splits import Split
from pipeline.data.stream import Slice, derive_seed
from pipeline.distributed.world import SINGLE_PROCESS, World

# Bytes of per-example gradients at once, if one example's fit in. Measured on a CPU with 256 examples: for the
# mlp 64 MB is as fast, for the simple_cnn a third slower or more.
GRADIENT_BYTES = 16 * 2**20
# Of how many steps between two evaluations micro-batches are compared: their noise averages out long before.
STEPS_WATCHED = 64


@dataclass(frozen=True)
class NoiseScale:
    """An estimate: `trace` of tr Σ and `squared_norm` of |G|², in (nats per unit of parameter)²."""

    trace: float
    squared_norm: float

    @property
    def value(self) -> float | None:
        """tr Σ / |G|² in examples; None where |G|² came out at or below 0: too few examples to tell it from noise."""
        ratio = self.trace / self.squared_norm if self.squared_norm > 0 else math.nan
        return ratio if math.isfinite(ratio) else None

    @classmethod
    def mean(cls, estimates: Sequence["NoiseScale"]) -> "NoiseScale":
        """Several estimates as one: numerators and denominators averaged apart."""
        count = len(estimates)
        return cls(sum(e.trace for e in estimates) / count, sum(e.squared_norm for e in estimates) / count)

    def metrics(self, name: str) -> dict[str, float]:
        """`name/trace`, `name/squared_norm` and, where there is an estimate, `name` itself."""
        parts = {f"{name}/trace": self.trace, f"{name}/squared_norm": self.squared_norm}
        return parts if self.value is None else {name: self.value, **parts}


@dataclass(frozen=True)
class NoiseSample:
    """When per-example gradients are taken, and of how many examples.

    Attributes:
        epochs: evaluations, 1 the first; counted from the end, -1 the last. Empty: never.
        examples: drawn from the training split, from 2 up.
    """

    epochs: tuple[int, ...] = ()
    examples: int = 512

    def is_due(self, epoch: int, from_end: int) -> bool:
        """Whether to measure at the `epoch`-th evaluation, which is the `from_end`-th (-1 the last) from the end."""
        return epoch in self.epochs or from_end in self.epochs

    def measure(self, model: nn.Module, split: Split, seed: int) -> NoiseScale:
        """The noise scale on a sample of `split`, augmented as in training; the same sample for the same `seed`.

        The model is in evaluation mode meanwhile: batch norm with batch statistics has no per-example gradients.
        Parameters, their `.grad`, buffers, training mode and the state of random generators stay as they are.
        """
        draw = derive_seed("noise scale", seed)
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(draw))[: self.examples]
        piece = examples_at_once(model)
        slices = (Slice(order[start : start + piece], start) for start in range(0, len(order), piece))
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        try:
            # A data loader draws from torch's own generator, and so may a model.
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                batches = split.batches(slices, augment_seed=draw)
                return noise_scale_of_examples(per_example_gradients(model, *batch) for batch in batches)
        finally:
            model.train(was_training)


NEVER = NoiseSample()


def examples_at_once(model: nn.Module) -> int:
    """How many examples' gradients fit in `GRADIENT_BYTES`; at least one."""
    bytes_each = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return max(1, GRADIENT_BYTES // bytes_each)


def per_example_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> list[Tensor]:
    """The gradient of each example's loss: for each trainable parameter of shape [...], a tensor [n, ...].

    Args:
        model: in evaluation mode.
        images: [n, ...].
        labels: [n, ...].
        loss: of (outputs [1, ...], labels [1, ...]), a scalar.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss_of_one(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return loss(functional_call(model, parameters, (image[None],)), label[None])

    gradients = vmap(grad(loss_of_one), in_dims=(None, 0, 0), randomness="different")
    return list(gradients(parameters, images, labels).values())


def noise_scale_of_examples(chunks: Iterable[Sequence[Tensor]]) -> NoiseScale:
    """Unbiased tr Σ and |G|² from per-example gradients; only their sum and their squares' sum are kept.

    tr Σ = (Σᵢ|gᵢ|² − n|ḡ|²) / (n − 1) and |G|² = |ḡ|² − tr Σ / n.

    Args:
        chunks: each the gradients of some examples: for each parameter a tensor [examples, ...]; n ≥ 2 in all.
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

    No backward pass and no copy of a gradient is added: within the `with` block a hook on each parameter takes
    the norm of a micro-batch's gradient before it is accumulated. The device is waited for in `drain` only.
    Where an evaluation comes after many steps, one in so many is watched that these are about `STEPS_WATCHED`.
    Measured on a CPU, where every step is watched: 2 to 8 % of training time where a micro-batch takes 3 ms or more,
    17 to 24 % where it takes less than one, as 32 digits through the mlp do.

    With micro-batches of bⱼ examples, B = Σbⱼ, k of them, gⱼ the gradient of a micro-batch's mean loss and g that of
    the whole batch: E|gⱼ|² = |G|² + tr Σ/bⱼ, so the mean with weights bⱼ/B is E Σⱼ(bⱼ/B)|gⱼ|² = |G|² + tr Σ·k/B.
    That is the paper's small batch at B/k examples, exactly so where the last micro-batch is smaller, and
    E|g|² = |G|² + tr Σ/B is its large one. In training mode dropout's noise is in it, and batch norm's.

    Args:
        model: whose gradients are watched.
        batch: B, examples in a step.
        micro_batch: most examples in one backward pass; None is all. With a single one there is nothing to tell.
        workers: who make the backward passes of a step together.
        steps: about how many lie between two evaluations.
    """

    def __init__(
        self, model: nn.Module, batch: int, micro_batch: int | None, world: World = SINGLE_PROCESS, steps: float = 1
    ) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._batch = batch
        self._world = world
        passes = world.passes_per_rank(batch, micro_batch)
        self._pieces, self._own_pieces = sum(passes), passes[world.rank]
        self._norms: list[Tensor] = []  # of the gradients that are arriving, one a parameter
        # (bⱼ/B)|gⱼ|² of this step, in memory that is taken once: see `Tally`.
        self._small = next(model.parameters()).new_zeros(self._own_pieces)
        self._arrived = 0
        self._sums: Tensor | None = None  # Σⱼ(bⱼ/B)|gⱼ|² and |g|², summed over the watched steps
        self._every = max(1, round(steps / STEPS_WATCHED))
        self._steps = 0  # since the last drain, of which every `_every`-th from the first on is watched

    def __enter__(self) -> Self:
        watched = self._parameters if self._pieces > 1 else []
        self._hooks = [p.register_hook(self._arrives) for p in watched]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _is_watched(self) -> bool:
        return self._steps % self._every == 0

    def _arrives(self, gradient: Tensor) -> None:
        if self._is_watched():
            self._norms.append(torch.linalg.vector_norm(gradient))

    def after_backward(self, examples: int) -> None:
        """Note a micro-batch of `examples`, whose loss was the mean over them times `examples` / B times workers."""
        if self._pieces == 1:
            return
        # But for the workers, the gradient that arrived is (bⱼ/B)gⱼ: its square times B/bⱼ is what the sum needs.
        if self._is_watched():
            self._small[self._arrived] = _squared(self._norms) * (self._batch / examples / self._world.size**2)
            self._norms.clear()
        self._arrived += 1
        if self._arrived < self._own_pieces:
            return
        if self._is_watched():
            whole = _squared([torch.linalg.vector_norm(p.grad) for p in self._parameters if p.grad is not None])
            sums = torch.stack([self._small.sum(), whole])
            self._sums = sums if self._sums is None else self._sums + sums
        self._steps += 1
        self._arrived = 0

    def drain(self) -> NoiseScale | None:
        """The estimate over the steps since the last drain; None where there is a single micro-batch a step."""
        if self._sums is None:
            return None
        watched = -(-self._steps // self._every)
        own, whole = (self._sums.cpu().double() / watched).tolist()
        (small,) = self._world.all_reduce_sum([own])
        self._sums, self._steps = None, 0
        trace = (small - whole) / ((self._pieces - 1) / self._batch)
        return NoiseScale(trace, whole - trace / self._batch)


def _squared(norms: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(norms)).square()
