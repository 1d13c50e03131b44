"""Training with torch; knows neither Hydra nor MLflow nor Optuna.

`fit` is the training loop. Where to add: a stop rule in `stopping`, a metric of an evaluation in `evaluate`, a
checkpoint mode in `state`, a precision in `runtime`.
"""

from pipeline.distributed.world import World
from pipeline.engine.evaluate import evaluate
from pipeline.engine.fit import fit
from pipeline.engine.noise_scale import NoiseSample, NoiseScale
from pipeline.engine.runtime import Runtime, arrange, chosen_micro_batch, set_up_runtime
from pipeline.engine.state import Checkpoints, load_checkpoint
from pipeline.engine.stopping import Evaluation, FitResult, objective_value

__all__ = [
    "Checkpoints",
    "Evaluation",
    "FitResult",
    "NoiseSample",
    "NoiseScale",
    "Runtime",
    "World",
    "arrange",
    "chosen_micro_batch",
    "evaluate",
    "fit",
    "load_checkpoint",
    "objective_value",
    "set_up_runtime",
]
