"""Sums of losses and wrong answers on the device, without waiting for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Answers are collected up to this number, then compared with their labels together: cheaper for small passes.
BUFFERED_EXAMPLES = 1024


class MetricAccumulator:
    """The sum of forward passes' losses, and the number of their wrong answers.

    The buffers are kept. If each pass allocated its own tensors, they would lie between its activations and outlive
    them, and the freed blocks could not be joined for the next pass: a step of 64 passes of the simple_cnn held 600 MiB
    more than one pass needs (benchmarks/memory.py).
    """

    def __init__(self) -> None:
        self._losses = torch.empty(0)
        self._loss_slots: Sequence[Tensor] = ()  # one view of `_losses` for each pass
        self._passes = 0
        self._logits = torch.empty(0)
        self._labels = torch.empty(0)
        self._views: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # of both; the same ones recur in each window
        self._buffered = 0  # examples in both
        self._wrong = torch.empty(0)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a pass: its `loss` (a scalar), `logits` [n, classes] and `labels` [n]. The tensors are copied."""
        if self._passes == len(self._loss_slots):
            self._grow(loss, logits, labels)
        self._loss_slots[self._passes].copy_(loss)
        self._passes += 1
        examples = len(labels)
        if examples >= BUFFERED_EXAMPLES:
            self._wrong += (logits.argmax(dim=1) != labels).sum()
            return
        if self._buffered + examples > BUFFERED_EXAMPLES:
            self._count_wrong()
        logits_view, labels_view = self._view(self._buffered, self._buffered + examples)
        logits_view.copy_(logits)
        labels_view.copy_(labels)
        self._buffered += examples

    def pop_sums(self) -> Tensor:
        """Return (sum of the losses, number of wrong answers) on the passes' device, and start again from zero."""
        self._count_wrong()
        sums = torch.stack((self._losses[: self._passes].sum(), self._wrong.to(self._losses.dtype)))
        self._passes = 0
        self._wrong.zero_()
        return sums

    def _grow(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        if not self._loss_slots:
            self._logits = logits.new_empty((BUFFERED_EXAMPLES, *logits.shape[1:]))
            self._labels = labels.new_empty(BUFFERED_EXAMPLES)
            self._wrong = labels.new_zeros(())
        longer = loss.new_empty(max(64, 2 * len(self._losses)))
        longer[: self._passes] = self._losses
        self._losses, self._loss_slots = longer, longer.unbind()

    def _view(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if (start, stop) not in self._views:
            self._views[start, stop] = self._logits[start:stop], self._labels[start:stop]
        return self._views[start, stop]

    def _count_wrong(self) -> None:
        if self._buffered:
            logits, labels = self._view(0, self._buffered)
            self._wrong += (logits.argmax(dim=1) != labels).sum()
            self._buffered = 0
