"""What forward passes leave to be looked at, kept until somebody looks."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Answers are checked when so many have come together: small passes then share what that costs.
AT_ONCE = 1024


class MetricAccumulator:
    """The sum of passes' losses, and their wrong answers.

    All of it lies in memory that is taken once. Where each pass leaves tensors of its own, they lie among the
    activations that are freed, which then can't be joined for the next pass: a step of 64 passes of the simple_cnn
    held 600 MiB more than one pass needs (benchmarks/memory.py).
    """

    def __init__(self) -> None:
        self._losses = torch.empty(0)
        self._loss_of: Sequence[Tensor] = ()  # each pass's place in it
        self._passes = 0
        self._outputs = torch.empty(0)
        self._labels = torch.empty(0)
        self._places: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # views of both, which recur window by window
        self._waiting = 0  # answers that weren't checked yet
        self._wrong = torch.empty(0)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note a pass: its `loss` (a scalar), `logits` [n, classes] and `labels` [n]; nothing of it is held."""
        if self._passes == len(self._loss_of):
            self._grow(loss, logits, labels)
        self._loss_of[self._passes].copy_(loss)
        self._passes += 1
        examples = len(labels)
        if examples >= AT_ONCE:
            self._wrong += (logits.argmax(dim=1) != labels).sum()
            return
        if self._waiting + examples > AT_ONCE:
            self._check()
        outputs, answers = self._place(self._waiting, self._waiting + examples)
        outputs.copy_(logits)
        answers.copy_(labels)
        self._waiting += examples

    def drain(self) -> Tensor:
        """(sum of the losses, number of wrong answers) since the last drain, on the passes' device."""
        self._check()
        drained = torch.stack((self._losses[: self._passes].sum(), self._wrong.to(self._losses.dtype)))
        self._passes = 0
        self._wrong.zero_()
        return drained

    def _grow(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        if not self._loss_of:
            self._outputs = logits.new_empty((AT_ONCE, *logits.shape[1:]))
            self._labels = labels.new_empty(AT_ONCE)
            self._wrong = labels.new_zeros(())
        longer = loss.new_empty(max(64, 2 * len(self._losses)))
        longer[: self._passes] = self._losses
        self._losses, self._loss_of = longer, longer.unbind()

    def _place(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if (start, stop) not in self._places:
            self._places[start, stop] = self._outputs[start:stop], self._labels[start:stop]
        return self._places[start, stop]

    def _check(self) -> None:
        if self._waiting:
            outputs, labels = self._place(0, self._waiting)
            self._wrong += (outputs.argmax(dim=1) != labels).sum()
            self._waiting = 0
