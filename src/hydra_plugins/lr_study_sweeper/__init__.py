"""A Hydra sweeper that searches intervals with Optuna, one study for each cell of the grid.

Hydra imports this package at the start of every Hydra app on the machine: nothing here may import Optuna.
"""

from hydra_plugins.lr_study_sweeper._errors import SweepFailedError
from hydra_plugins.lr_study_sweeper._hooks import Abandoned, FixedTrial, Hooks, Outcome, Progress, Sweep
from hydra_plugins.lr_study_sweeper._secrets import MaskingFormatter, masked, without_passwords
from hydra_plugins.lr_study_sweeper._trial import Trial, TrialPruned, current_trial

__all__ = [
    "Abandoned",
    "FixedTrial",
    "Hooks",
    "MaskingFormatter",
    "Outcome",
    "Progress",
    "Sweep",
    "SweepFailedError",
    "Trial",
    "TrialPruned",
    "current_trial",
    "masked",
    "without_passwords",
]
