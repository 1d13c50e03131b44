"""Checkpoints that are there whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.engine.fit import Evaluation


def save_atomically(path: Path, payload: dict[str, Any]) -> None:
    """Write `payload` so that `path` holds the old file or the new one, never half of it, through a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = path.with_suffix(".arriving")
    with open(arriving, "wb") as file:
        torch.save(payload, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(arriving, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must reach the disk too
    finally:
        os.close(folder)


class Checkpoints:
    """Keeps `best.pt` (lowest `metric` so far) and `last.pt` under a folder, as `mode` asks.

    A file holds `model`, `optimizer`, `epoch`, `step` and `metrics`; load it with
    `torch.load(path, weights_only=True)`.
    """

    def __init__(self, folder: Path, mode: str, metric: str) -> None:
        self.folder = folder
        self.metric = metric
        self._keep_best = mode in ("best", "both")
        self._keep_last = mode in ("last", "both")
        self._best = float("inf")

    def update(self, evaluation: Evaluation, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write what this evaluation calls for."""
        value = evaluation.metrics[self.metric]
        improved = self._keep_best and value < self._best
        if not improved and not self._keep_last:
            return
        payload = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": evaluation.epoch,
            "step": evaluation.step,
            "metrics": evaluation.metrics,
        }
        if improved:
            self._best = value
            save_atomically(self.folder / "best.pt", payload)
        if self._keep_last:
            save_atomically(self.folder / "last.pt", payload)
