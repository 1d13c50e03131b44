"""From a table of runs to the answer: statistics, text, figures and the page; without torch, Hydra, MLflow or Optuna."""
