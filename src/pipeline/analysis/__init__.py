"""Tables in, tables and figures out: knows neither torch, Hydra, MLflow nor Optuna."""
