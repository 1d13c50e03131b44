"""The state of a run, from which it can be resumed: what a checkpoint holds."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.optimizer_step import Stepper
from pipeline.engine.result import Evaluation, FitResult
from pipeline.engine.stopping import DivergenceMonitor

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

    Args:
        stepper, monitor, result: of the run.
        status: how the run ends here; None if it continues.
        random: from `random_states`.
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
