"""How far does the linear learning-rate rule hold? Searched with Optuna, tracked in MLflow, answered."""
