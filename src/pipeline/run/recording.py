"""What a run logs in MLflow about itself, beside its metrics."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lr_study import Trial
from lr_study.masking import mask_tree
from pipeline.config import Config, as_dict, flatten
from pipeline.data.stream import in_order
from pipeline.engine import Evaluation, load_checkpoint
from pipeline.engine.runtime import device_name
from pipeline.process import imports
from pipeline.run.workload import Workload
from pipeline.tracking.environment import cpu_model, find_or
from pipeline.tracking.run import TrackedRun


def run_name(config: Config) -> str:
    """The run's name in MLflow, as `b256-lr0.2-s0`."""
    return f"b{config.batch}-lr{config.optimizer.get('lr', 0):.4g}-s{config.seed}"


def lr_factor(config: Config) -> float | None:
    """The LR over the base LR, whether a rule or the user set it; None without a base LR."""
    base, lr = config.optimizer.get("base_lr"), config.optimizer.get("lr")
    return lr / base if base and lr else None


def device_used(workload: Workload) -> str:
    """The model of the GPU, else of the processor."""
    return find_or("unknown", "device", lambda: device_name(workload.runtime.device) or cpu_model())


def tags_of(config: Config, trial: Trial | None) -> dict[str, str]:
    """The tags that say whether this is a single run, or which trial of which sweep."""
    tags = {"pipeline": "run"}
    if trial is not None:
        tags |= {
            "pipeline": "trial",
            "sweep": config.sweep.name,
            "study": trial.study,
            "cell": trial.cell,
            "trial": str(trial.number),
            "phase": trial.phase,
            "mlflow.source.name": trial.command,
        }
        if trial.retry_of is not None:
            tags["retry_of"] = str(trial.retry_of)
    return tags


def record_request(run: TrackedRun, config: Config, workload: Workload, trial: Trial | None, stack: int) -> None:
    """Log the configuration, the data set and, for single runs, the environment, before training starts.

    `stack` is how many replicates train at once.
    """
    used = workload.runtime.as_params() | {"batching.micro_batch": workload.micro_batch, "runtime.stack": stack}
    known = {"scaling.factor": lr_factor(config), "dataset.guess_loss": workload.splits.guess_loss}
    run.log_params(flatten(as_dict(config)) | used | known)
    if HydraConfig.initialized():
        overrides = mask_tree(list(HydraConfig.get().overrides.task))
        run.log_text(OmegaConf.to_yaml(OmegaConf.create(overrides)), "config/overrides.yaml")
    splits = workload.splits
    run.log_dataset(splits.name, splits.digest, splits.source, len(splits.train))
    if trial is None:
        run.log_environment()  # a sweep logs it once, on its parent run


def log_best_model(run: TrackedRun, workload: Workload) -> None:
    """Store the network of the best evaluation."""
    best = load_checkpoint(run.spool.files / "best.pt")
    if best is None:
        return  # it could not be written to disk; that was logged
    count = min(2, len(workload.splits.val))
    images, _ = next(iter(workload.splits.val.batches(in_order(count, count))))
    model, images = workload.model.cpu().eval(), images.cpu()
    model.load_state_dict(best["model"])
    with torch.inference_mode():
        output = model(images)
    run.log_model(model, images.numpy(), output.numpy())


def draw_run_curves(run: TrackedRun, evaluations: Sequence[Evaluation]) -> None:
    """Store the run's curves as a figure."""
    if not evaluations:
        return
    imports.wait()
    from pipeline.analysis.figures.learning_curves import save_learning_curves

    rows = [{"epoch": e.epoch, **e.metrics} for e in evaluations]
    with tempfile.TemporaryDirectory() as scratch:
        save_learning_curves(rows, Path(scratch) / "curves.png")
        run.log_file(Path(scratch) / "curves.png", "")
