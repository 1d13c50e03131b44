"""Training: knows torch, and neither Hydra nor MLflow nor Optuna."""

from pipeline.engine.checkpoint import Checkpoints, load_checkpoint
from pipeline.engine.evaluate import evaluate
from pipeline.engine.fit import Evaluation, FitResult, fit
from pipeline.engine.noise_scale import NoiseSample, NoiseScale
from pipeline.engine.objective import objective_value
from pipeline.engine.runtime import Runtime, set_up_runtime

__all__ = [
    "Checkpoints",
    "Evaluation",
    "FitResult",
    "NoiseSample",
    "NoiseScale",
    "Runtime",
    "evaluate",
    "fit",
    "load_checkpoint",
    "objective_value",
    "set_up_runtime",
]
