"""A trial in MLflow as a row of the table that the analysis takes."""

from mlflow.entities import Run as MlflowRun

from pipeline.analysis.runs import Run, parse_cell_name
from pipeline.recipe.statuses import STATUSES


def as_run(child: MlflowRun) -> Run:
    """Turn a run in MLflow into a row of the table.

    Raises:
        ValueError: it has values that no run of this project logs.
    """
    params, metrics, tags = child.data.params, child.data.metrics, child.data.tags
    batch, lr, status = int(params["batch"]), float(params["optimizer.lr"]), tags["status"]
    if batch < 1 or not 0 < lr < float("inf") or status not in STATUSES:
        raise ValueError(f"batch {batch}, LR {lr:g}, status {status}")
    objective = "steps_to_target" if params.get("budget.kind") == "target" else params["objective"]
    swept = dict(parse_cell_name(tags.get("cell", "")))
    # Measured by per-example gradients, or else estimated from the gradients of micro-batches or workers.
    noise = "noise_scale" if "noise_scale/trace" in metrics else "noise_scale_accumulated"
    return Run(
        batch=batch,
        lr=lr,
        value=metrics.get(objective, float("nan")),
        seed=int(params["seed"]),
        status=status,
        train_loss=metrics.get("train/loss"),
        error=metrics.get("val/error"),
        test_loss=metrics.get("test/loss"),
        steps=int(metrics["optimizer_steps"]) if "optimizer_steps" in metrics else None,
        noise_trace=metrics.get(f"{noise}/trace"),
        noise_squared_norm=metrics.get(f"{noise}/squared_norm"),
        run_id=child.info.run_id,
        phase=tags.get("phase", "search"),
        other={key: value for key, value in swept.items() if key not in ("batch", "optimizer.lr")},
        reason=tags.get("error", ""),
    )
