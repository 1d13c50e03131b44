"""bfloat16 forward passes against single precision."""

import statistics

import pytest
import torch

from pipeline.engine.runtime import Precision
from tests.distributed.test_world import mlp, run

SEEDS = range(6)


@pytest.fixture(scope="module")
def both():
    """The last evaluations of six seeds in single precision, and in bfloat16."""
    return [
        [run(mlp, 64, steps=100, lr=0.1, seed=seed, precision=Precision(name))["metrics"][-1] for seed in SEEDS]
        for name in ("fp32", "bf16")
    ]


@pytest.mark.parametrize("metric", ["val/loss", "train/loss"])
def test_bfloat16_ends_within_the_seeds_spread(both, metric):
    full, half = ([metrics[metric] for metrics in runs] for runs in both)
    differences = [b - a for a, b in zip(full, half, strict=True)]
    assert any(differences), "it computed in single precision"
    assert abs(statistics.mean(differences)) < statistics.stdev(full)


def test_parameters_and_gradients_stay_in_single_precision():
    found = run(mlp, 64, steps=3, precision=Precision("bf16"))
    assert {tensor.dtype for tensor in found["model"].values()} == {torch.float32}
