"""What a run tells MLflow about itself, beside its metrics."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lr_study import Trial
from lr_study.masking import mask_tree
from pipeline.config import Config, as_dict, flatten

if TYPE_CHECKING:
    from pipeline.engine import Evaluation
    from pipeline.run.workload import Workload
    from pipeline.tracking.run import TrackedRun


def run_name(config: Config) -> str:
    """`b256-lr0.2-s0`: what tells a run from its neighbours."""
    return f"b{config.batch}-lr{config.optimizer.get('lr', 0):.4g}-s{config.seed}"


def lr_factor(config: Config) -> float | None:
    """The factor on the base LR that is in force, by rule or by hand; None without a base LR."""
    base, lr = config.optimizer.get("base_lr"), config.optimizer.get("lr")
    return lr / base if base and lr else None


def tags_of(config: Config, trial: Trial | None) -> dict[str, str]:
    """The tags that say what the run is: a single one, or which trial of which sweep."""
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


def device_of(workload: "Workload") -> str:
    """The model of what the run computes on: the GPU, else the processor."""
    from pipeline.engine.runtime import device_name
    from pipeline.tracking.environment import cpu_model, found_or

    return str(found_or("unknown", "device", lambda: device_name(workload.runtime.device) or cpu_model()))


def record_request(run: "TrackedRun", config: Config, workload: "Workload", trial: Trial | None) -> None:
    """Log what was asked for and what it rests on, before training starts."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    used = workload.runtime.as_params() | {"batching.micro_batch": workload.micro_batch}
    known = {"scaling.factor": lr_factor(config), "dataset.guess_loss": workload.splits.guess_loss}
    run.log_params(flatten(as_dict(config)) | used | known)
    if HydraConfig.initialized():
        run.log_text(
            OmegaConf.to_yaml(OmegaConf.create(mask_tree(list(HydraConfig.get().overrides.task)))),
            "config/overrides.yaml",
        )
    splits = workload.splits
    run.log_dataset(splits.name, splits.digest, splits.source, len(splits.train))
    if trial is None:
        run.log_environment()  # a sweep gathers it once, on the parent


def log_best_model(run: "TrackedRun", workload: "Workload") -> None:
    """Store the network of the best evaluation."""
    import torch

    from pipeline.data.stream import in_order
    from pipeline.engine import load_checkpoint

    best = load_checkpoint(run.spool.files / "best.pt")
    if best is None:
        return  # the disk refused it, which was said
    count = min(2, len(workload.splits.val))
    images, _ = next(iter(workload.splits.val.batches(in_order(count, count))))
    model, images = workload.model.cpu().eval(), images.cpu()
    model.load_state_dict(best["model"])
    with torch.inference_mode():
        output = model(images)
    run.log_model(model, images.numpy(), output.numpy())


def draw_run_curves(run: "TrackedRun", evaluations: list["Evaluation"]) -> None:
    """Store the run's curves as a figure."""
    if not evaluations:
        return
    from pipeline.analysis.figures.learning_curves import save_learning_curves

    rows = [{"epoch": e.epoch, **e.metrics} for e in evaluations]
    with tempfile.TemporaryDirectory() as scratch:
        save_learning_curves(rows, Path(scratch) / "curves.png")
        run.log_file(Path(scratch) / "curves.png", "")
