"""What a run can be gone on with from, and going on."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.divergence import DivergenceMonitor
from pipeline.engine.optimizer_step import Loop
from pipeline.engine.result import Evaluation, FitResult

# Plain containers and tensors, which `torch.load(weights_only=True)` takes.
State = dict[str, Any]


def random_states(loop: Loop) -> list[list[Tensor]]:
    """The states of the generators that dropout and the like draw from: for each worker, of its CPU and of its GPU.

    Each worker has a GPU of its own, and knows the generator of that one alone.
    """
    device = loop.device
    own = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return [list(states) for states in zip(*(loop.world.all_gather(state) for state in own), strict=True)]


def state_of(
    loop: Loop, health: DivergenceMonitor, result: FitResult, over: str | None, random: list[list[Tensor]]
) -> State:
    """The state after the last evaluation in `result`; its tensors are the run's own, not copies.

    Args:
        loop, health, result: of the run.
        over: how the run has ended, where it ends here; else None.
        random: from `random_states`.
    """
    last = result.evaluations[-1]
    return {
        "model": loop.model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "epoch": last.epoch,
        "step": last.step,
        "metrics": last.metrics,
        "evaluations": [asdict(evaluation) for evaluation in result.evaluations],
        "train_seconds": result.train_seconds,
        "health": asdict(health),
        "over": over,
        "random": random,
    }


def restore(state: State, loop: Loop, health: DivergenceMonitor, result: FitResult) -> None:
    """Put `state` into a run that has just been built."""
    loop.model.load_state_dict(state["model"])
    loop.optimizer.load_state_dict(state["optimizer"])
    result.steps, result.train_seconds = state["step"], state["train_seconds"]
    result.evaluations += [Evaluation(**evaluation) for evaluation in state["evaluations"]]
    health.start_loss, health.peak_loss = state["health"]["start_loss"], state["health"]["peak_loss"]
    set_random_state(state["random"], loop)


def set_random_state(random: list[list[Tensor]], loop: Loop) -> None:
    """Set this worker's generators to what `random_states` found, where as many workers go on as there were.

    Else they go on from their seeds, as a GPU's does that wasn't there before.
    """
    if len(random) != loop.world.size:
        return
    on_cpu, *on_gpu = random[loop.world.rank]
    torch.set_rng_state(on_cpu)
    if on_gpu and loop.device.type == "cuda":
        torch.cuda.set_rng_state(on_gpu[0], loop.device)
