"""Checkpoints: which are written (`best.pt`, `last.pt`), written atomically, and loaded without running code."""

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


class Checkpoints:
    """Writes `best.pt` (lowest `metric` so far) and `last.pt` to a folder.

    A file holds `model`, `optimizer`, `epoch`, `step`, `metrics` and what else resuming takes; load it with
    `load_checkpoint`, or `torch.load(path, weights_only=True)`. If the disk refuses, no more checkpoints are written,
    and the run continues.

    Args:
        folder: made when it is first needed.
        mode: `best`, `last`, `both` or `none`, as `config.checks` lists them.
        metric: of an evaluation.
    """

    def __init__(self, folder: Path, mode: str, metric: str) -> None:
        self.folder = folder
        self.metric = metric
        self._keeps_best = mode in ("best", "both")
        self._keeps_last = mode in ("last", "both")
        self._best = float("inf")

    def resume_from_state(self, state: State) -> None:
        """Take the best value so far from the evaluations of a resumed run."""
        self._best = min((e["metrics"][self.metric] for e in state["evaluations"]), default=self._best)

    def update(self, evaluation: Evaluation, state: Callable[[], State]) -> None:
        """Write the files that the mode asks for after `evaluation`; `state` returns their content."""
        value = evaluation.metrics[self.metric]
        improved = self._keeps_best and value < self._best
        names = [*(["best"] if improved else []), *(["last"] if self._keeps_last else [])]
        if not names:
            return
        content = state()
        try:
            for name in names:
                save_atomically(self.folder / f"{name}.pt", content)
        except OSError as error:
            self._keeps_best = self._keeps_last = False
            for name in names:
                with contextlib.suppress(OSError):
                    (self.folder / f"{name}.arriving").unlink()
            log.warning(
                "%s: no checkpoint can be written (%s). The run continues without more.", self.folder, error.strerror
            )
        if improved:
            self._best = value


def save_atomically(path: Path, content: dict[str, Any]) -> None:
    """Write `content` so that `path` holds the old file or the new one, never a part of it, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = path.with_suffix(".arriving")
    with open(arriving, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(arriving, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must reach the disk, too
    finally:
        os.close(folder)


def load_checkpoint(path: Path) -> State | None:
    """Return the content of `path`, on the CPU; None if there is no such file, or it is no checkpoint of this project.

    Only tensors and plain containers are loaded, so that a file from elsewhere can't run code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever torch finds wrong with it
        log.warning("%s can't be loaded (%s).", path, (str(error) or type(error).__name__).splitlines()[0][:120])
        return None
    return content if isinstance(content, dict) and "evaluations" in content else None
