"""A trained network as an MLflow model: with signature and input example, and needing nothing of this project."""

import logging
import warnings
from pathlib import Path
from typing import Any


def save_model(model: Any, example: Any, output: Any, folder: Path) -> None:
    """Write `model` into `folder` in MLflow's format, as torch's exported graph, which holds no Python code.

    Args:
        model: a torch module on the CPU, in evaluation mode.
        example: images that it takes, a NumPy array [n, channels, height, width] of float32.
        output: what it makes of them, [n, classes].
        folder: must not exist yet.
    """
    import mlflow.pytorch
    from mlflow.models import infer_signature

    logging.getLogger("mlflow.utils").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export and MLflow warn about their own insides
        mlflow.pytorch.save_model(
            model,
            str(folder),
            signature=infer_signature(example, output),
            input_example=example,
            pip_requirements=["mlflow", "numpy", "torch"],
            serialization_format="pt2",
        )
