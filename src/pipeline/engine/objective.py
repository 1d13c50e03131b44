"""The one number a run is judged by."""

import math

from pipeline.engine.divergence import bounded_loss
from pipeline.engine.result import FitResult
from pipeline.recipe.budget import TrainingPlan


def objective_value(objective: str, result: FitResult, plan: TrainingPlan, guess_loss: float) -> float:
    """The objective of a finished run, finite whatever happened.

    With a target it is the number of steps that took (the whole budget where it was missed). Else it is the
    metric `objective` at the last evaluation; a diverged run counts as ten times the loss of the best
    constant guess, or as an error of 1.
    """
    if plan.target:
        return float(result.steps if result.status == "complete" else plan.total_steps)
    diverged = result.status == "diverged" or not result.evaluations
    value = math.nan if diverged else result.evaluations[-1].metrics[objective]
    if objective.endswith("error"):
        return value if math.isfinite(value) else 1.0
    return bounded_loss(value, guess_loss)
