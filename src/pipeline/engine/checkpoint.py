"""Checkpoints that are there whole or not at all."""

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.engine.result import Evaluation
from pipeline.engine.state import State

log = logging.getLogger("pipeline.engine")


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

    A file holds `model`, `optimizer`, `epoch`, `step`, `metrics` and what else it takes to go on from there; load it
    with `load_checkpoint`, or `torch.load(path, weights_only=True)`. A disk that refuses ends the keeping, and not
    the run.
    """

    def __init__(self, folder: Path, mode: str, metric: str) -> None:
        self.folder = folder
        self.metric = metric
        self._keep_best = mode in ("best", "both")
        self._keep_last = mode in ("last", "both")
        self._best = float("inf")

    def resume_from_state(self, state: State) -> None:
        """Take the best value so far from the evaluations of a run that is gone on with."""
        self._best = min((e["metrics"][self.metric] for e in state["evaluations"]), default=self._best)

    def update(self, evaluation: Evaluation, state: Callable[[], State]) -> None:
        """Write what this evaluation calls for; `state` gives what a file holds."""
        value = evaluation.metrics[self.metric]
        improved = self._keep_best and value < self._best
        if not improved and not self._keep_last:
            return
        payload = state()
        try:
            if improved:
                self._best = value
                save_atomically(self.folder / "best.pt", payload)
            if self._keep_last:
                save_atomically(self.folder / "last.pt", payload)
        except OSError as error:
            self._keep_best = self._keep_last = False
            for name in ("best", "last"):
                with contextlib.suppress(OSError):
                    (self.folder / f"{name}.arriving").unlink()
            log.warning("%s can't take checkpoints (%s): the run goes on without more.", self.folder, error.strerror)


def load_checkpoint(path: Path) -> State | None:
    """What `path` holds, on the CPU; None where there is no such file, or it isn't a checkpoint of this project.

    Only tensors and plain containers are loaded, so that a file from elsewhere can't run code.
    """
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever torch finds wrong with it
        log.warning("%s can't be loaded (%s).", path, (str(error) or type(error).__name__).splitlines()[0][:120])
        return None
    return payload if isinstance(payload, dict) and "evaluations" in payload else None
