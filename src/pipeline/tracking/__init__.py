"""Tracking in MLflow: the only code that imports mlflow. A run imports it in a thread, beside the training."""
