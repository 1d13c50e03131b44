"""The state of a run, from which it can be resumed, and the checkpoints that hold it (`best.pt`, `last.pt`)."""

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.utils.serialization.config  # noqa: F401  (else torch.save imports it in the middle of a run)
from torch import Tensor

from lr_study import reason_of
from pipeline.engine.optimizer_step import Stepper
from pipeline.engine.stopping import DivergenceMonitor, Evaluation, FitResult

log = logging.getLogger("pipeline.engine")

# Plain containers and tensors, which `torch.load(weights_only=True)` takes.
State = dict[str, Any]


def random_states(stepper: Stepper) -> list[list[Tensor]]:
    """Return the states of torch's random generators: for each rank, that of its CPU and that of its own GPU."""
    device = stepper.device
    own = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return [list(states) for states in zip(*(stepper.world.all_gather(state) for state in own), strict=True)]


def state_of(
    stepper: Stepper, monitor: DivergenceMonitor, result: FitResult, status: str | None, random: list[list[Tensor]]
) -> State:
    """Return the state after the last evaluation in `result`; its tensors are the run's own, not copies.

    `status` says how the run ends here, and is None if it continues; `random` is from `random_states`.
    """
    last = result.evaluations[-1]
    return {
        "model": stepper.model.state_dict(),
        "optimizer": stepper.optimizer.state_dict(),
        "epoch": last.epoch,
        "step": last.step,
        "metrics": last.metrics,
        "evaluations": [asdict(evaluation) for evaluation in result.evaluations],
        "train_seconds": result.train_seconds,
        "health": asdict(monitor),
        "over": status,
        "random": random,
    }


def restore(state: State, stepper: Stepper, monitor: DivergenceMonitor, result: FitResult) -> None:
    """Load `state` into a run that has just been built."""
    stepper.model.load_state_dict(state["model"])
    stepper.optimizer.load_state_dict(state["optimizer"])
    result.steps, result.train_seconds = state["step"], state["train_seconds"]
    result.evaluations += [Evaluation(**evaluation) for evaluation in state["evaluations"]]
    monitor.start_loss, monitor.peak_loss = state["health"]["start_loss"], state["health"]["peak_loss"]
    set_random_state(state["random"], stepper)


def set_random_state(random: list[list[Tensor]], stepper: Stepper) -> None:
    """Set this rank's random generators to `random`, from `random_states`.

    If the world size was another, they keep what their seeds gave them; so does a GPU's if the run had none.
    """
    if len(random) != stepper.world.size:
        return
    on_cpu, *on_gpu = random[stepper.world.rank]
    torch.set_rng_state(on_cpu)
    if on_gpu and stepper.device.type == "cuda":
        torch.cuda.set_rng_state(on_gpu[0], stepper.device)


class Checkpoints:
    """Writes `best.pt` (lowest `metric` so far) and `last.pt` to a folder.

    A file holds what `state_of` returns; load it with `load_checkpoint`, or `torch.load(path, weights_only=True)`. If
    the disk refuses, no more checkpoints are written, and the run continues.

    `mode` is `best`, `last`, `both` or `none`, as `config.checks` lists them; the folder is made when it is needed.
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
        except (OSError, RuntimeError) as error:  # torch makes another error of what the disk says
            self._keeps_best = self._keeps_last = False
            for name in names:
                with contextlib.suppress(OSError):
                    (self.folder / f"{name}.arriving").unlink()
            log.warning(
                "%s: no checkpoint can be written (%s). The run continues without more.", self.folder, reason_of(error)
            )
        if improved:
            self._best = value


def save_atomically(path: Path, content: State) -> None:
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
        log.warning("%s can't be loaded (%s).", path, reason_of(error))
        return None
    return content if isinstance(content, dict) and "evaluations" in content else None
