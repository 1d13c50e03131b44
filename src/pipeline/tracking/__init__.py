"""Tracking in MLflow: the only code that imports mlflow, and that only from a run's side thread."""

from pipeline.tracking.target import check_location

__all__ = ["check_location"]
