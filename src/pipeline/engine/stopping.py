"""When a run stops, with which status (`recipe.statuses`), and its objective; divergence is a result, not a crash."""

import math
from dataclasses import dataclass

from pipeline.engine.result import Evaluation, FitResult
from pipeline.recipe.budget import TrainingPlan

# Diverged: the loss grew to ten times what it was at the start.
DIVERGED_FACTOR = 10.0
# Stalled: the loss rose above the start by more than this factor …
ROSE_FACTOR = 1.05
# … and ended at no less than this share of the best constant guess's loss.
NEAR_GUESS = 0.95


@dataclass
class DivergenceMonitor:
    """Watches the training loss, in means over short windows.

    Attributes:
        guess_loss: mean loss of the best constant guess, in nats.
        start_loss: loss of the first batch, before any update; NaN until it is known.
        peak_loss: the highest window so far.
    """

    guess_loss: float
    start_loss: float = math.nan
    peak_loss: float = -math.inf

    def diverged(self, window_loss: float) -> bool:
        """Record a window's mean loss, and return whether the run has diverged. The first window is the start."""
        if math.isnan(self.start_loss):
            self.start_loss = window_loss
        if not math.isfinite(window_loss):
            return True
        self.peak_loss = max(self.peak_loss, window_loss)
        return window_loss > DIVERGED_FACTOR * max(self.start_loss, self.guess_loss)

    def stalled(self, final_train_loss: float) -> bool:
        """Return whether a run that ended at `final_train_loss` fell back to a constant guess.

        A high loss alone doesn't show it: healthy runs at a small LR end near a guess, too. Only too large an LR
        raises the loss first. (A run that fell back without such a peak is found later, by comparison with the
        smaller LRs of its cell: `pipeline.analysis.runs.mark_stalled`.)
        """
        rose = self.peak_loss > ROSE_FACTOR * max(self.start_loss, self.guess_loss)
        return rose and final_train_loss >= NEAR_GUESS * self.guess_loss


def status_after(evaluation: Evaluation, monitor: DivergenceMonitor, plan: TrainingPlan) -> str | None:
    """Return the status of a run that ends with `evaluation`; None if it continues."""
    if monitor.diverged(evaluation.metrics["val/loss"]):
        return "diverged"
    if plan.target is not None:
        metric, threshold = plan.target
        if evaluation.metrics[metric] < threshold:
            return "complete"
    return None


def status_at_end(last: Evaluation, monitor: DivergenceMonitor, plan: TrainingPlan) -> str:
    """Return the status of a run that has used up its budget."""
    if monitor.stalled(last.metrics["train/loss"]):
        return "stalled"
    return "complete" if plan.target is None else "missed"


def objective_value(objective: str, result: FitResult, plan: TrainingPlan, guess_loss: float) -> float:
    """Return the objective of a finished run, which is finite for every status.

    With a target it is the number of steps that took (the whole budget if it was missed). Otherwise it is the metric
    `objective` at the last evaluation; a diverged run counts as ten times the loss of the best constant guess, or as
    an error of 1.
    """
    if plan.target:
        return float(result.steps if result.status == "complete" else plan.total_steps)
    diverged = result.status == "diverged" or not result.evaluations
    value = math.nan if diverged else result.evaluations[-1].metrics[objective]
    if objective.endswith("error"):
        return value if math.isfinite(value) else 1.0
    return bounded_loss(value, guess_loss)


def bounded_loss(loss: float, guess_loss: float) -> float:
    """Return a run's loss as a number that a search can use: at most ten times the best constant guess's."""
    limit = DIVERGED_FACTOR * guess_loss
    return min(loss, limit) if math.isfinite(loss) else limit
