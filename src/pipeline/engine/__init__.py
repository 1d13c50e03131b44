"""Training with torch; knows neither Hydra nor MLflow nor Optuna.

`fit` is the training loop. Where to add: a stop rule in `stopping`, a metric of an evaluation in `evaluate`, a
checkpoint mode in `checkpoint`, a precision in `runtime`.
"""

from pipeline.distributed.world import World
from pipeline.engine.checkpoint import Checkpoints, load_checkpoint
from pipeline.engine.evaluate import evaluate
from pipeline.engine.fit import fit
from pipeline.engine.micro_batch import chosen_micro_batch
from pipeline.engine.noise_scale import NoiseSample, NoiseScale
from pipeline.engine.result import Evaluation, FitResult
from pipeline.engine.runtime import Runtime, arrange, set_up_runtime
from pipeline.engine.stopping import objective_value

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
