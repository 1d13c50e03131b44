"""Tracking in MLflow: the only code that imports mlflow, and only when a run is opened."""

from pipeline.tracking.location import check_location

__all__ = ["check_location"]
