"""Training: knows torch, and neither Hydra nor MLflow nor Optuna."""

from pipeline.distributed.world import World
from pipeline.engine.checkpoint import Checkpoints, load_checkpoint
from pipeline.engine.evaluate import evaluate
from pipeline.engine.fit import fit
from pipeline.engine.micro_batch import chosen_micro_batch
from pipeline.engine.noise_scale import NoiseSample, NoiseScale
from pipeline.engine.objective import objective_value
from pipeline.engine.result import Evaluation, FitResult
from pipeline.engine.runtime import Runtime, arrange, set_up_runtime

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
