"""From a table of runs to statistics, text, figures and a page; uses neither torch, Hydra, MLflow nor Optuna."""
