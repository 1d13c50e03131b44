"""A trial in MLflow as rows of the table that the analysis takes: one for each replicate."""

from collections.abc import Mapping, Sequence

from mlflow.entities import Run as MlflowRun

from pipeline.analysis.replicate_table import ReplicateRow
from pipeline.analysis.runs import Run, parse_cell_name
from pipeline.recipe.statuses import CRASHED, STATUSES


def has_replicates(child: MlflowRun) -> bool:
    """Return whether the run trained several replicates, whose table is an artifact, and ended by itself."""
    return "-" in child.data.params["seed"] and child.data.tags["status"] not in CRASHED


def as_runs(child: MlflowRun, replicates: Sequence[ReplicateRow] = ()) -> list[Run]:
    """Turn a run in MLflow, with the table of its `replicates` where it has one, into rows of the table.

    Raises:
        ValueError: it has values that no run of this project logs.
    """
    params, tags = child.data.params, child.data.tags
    if not replicates:
        # One that crashed has no table: it counts as a run of its first seed.
        seed = int(params["seed"].partition("-")[0])
        return [_as_run(child, seed, tags["status"], child.data.metrics)]
    last = {row.seed: row for row in replicates}
    # Of each metric the last value, as MLflow keeps it: the noise scale is measured at some evaluations only.
    latest: dict[int, dict[str, float]] = {seed: {} for seed in last}
    for row in replicates:
        latest[row.seed] |= {**row.metrics, "steps_to_target": row.step}
    return [_as_run(child, seed, row.status, latest[seed]) for seed, row in last.items()]


def _as_run(child: MlflowRun, seed: int, status: str, metrics: Mapping[str, float]) -> Run:
    params, tags = child.data.params, child.data.tags
    batch, lr = int(params["batch"]), float(params["optimizer.lr"])
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
        seed=seed,
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
