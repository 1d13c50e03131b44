"""A Hydra sweeper that searches intervals with Optuna, one study for each cell of the grid.

The driver, the process that runs the command, reads the request (`space`, `sweep`), makes trials (`study`, `waves`) and
gives them to Hydra's launcher (`launching`). Each trial stores its own result (`trial_task`). What a trial and a study
carry in the storage is described in `history` and `stored_study`.

Hydra imports this package at the start of every Hydra app on the machine, so nothing here may import Optuna.
"""

from lr_study.errors import SweepFailedError, reason_of
from lr_study.hooks import Abandoned, FixedTrial, Hooks, Outcome, Progress, Sweep
from lr_study.masking import MaskingFormatter
from lr_study.process import available_cores
from lr_study.trial import Trial, TrialPruned, current_trial

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
    "available_cores",
    "current_trial",
    "reason_of",
]
