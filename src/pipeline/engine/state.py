"""What a run can be gone on with from, and going on."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.health import Health
from pipeline.engine.loop import Loop
from pipeline.engine.result import Evaluation, FitResult

# Plain containers and tensors, which `torch.load(weights_only=True)` takes.
State = dict[str, Any]


def state_of(loop: Loop, health: Health, result: FitResult, over: str | None, random: list[Tensor]) -> State:
    """The state after the last evaluation in `result`; its tensors are the run's own, not copies.

    Args:
        loop, health, result: of the run.
        over: how the run has ended, where it ends here; else None.
        random: the state of each worker's random generator on the CPU.
    """
    last = result.evaluations[-1]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
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
        "random": [*random, *cuda],  # what dropout and the like draw from, of each worker, and on GPUs
        "workers": len(random),
    }


def restore(state: State, loop: Loop, health: Health, result: FitResult) -> None:
    """Put `state` into a run that has just been built.

    Random generators are set where as many workers go on as there were; else they go on from their seeds.
    """
    loop.model.load_state_dict(state["model"])
    loop.optimizer.load_state_dict(state["optimizer"])
    result.steps, result.train_seconds = state["step"], state["train_seconds"]
    result.evaluations += [Evaluation(**evaluation) for evaluation in state["evaluations"]]
    health.start_loss, health.peak_loss = state["health"]["start_loss"], state["health"]["peak_loss"]
    count = state.get("workers", 1)
    if count == loop.workers.count:
        torch.set_rng_state(state["random"][loop.workers.rank])
    if state["random"][count:]:
        torch.cuda.set_rng_state_all(state["random"][count:])
