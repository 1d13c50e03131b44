"""What a run returns: evaluations, a status (`recipe.statuses`), an objective. Divergence is a result, not a crash."""

import math
from dataclasses import dataclass, field

from pipeline.recipe.budget import TrainingPlan
from pipeline.recipe.statuses import NEAR_GUESS

# Diverged: the loss grew to ten times the larger of the loss at the start and that of the best constant guess.
DIVERGED_FACTOR = 10.0
# Stalled: the loss rose to more than this times the larger of the two, and ended near the constant guess's.
ROSE_FACTOR = 1.05


@dataclass(frozen=True)
class Evaluation:
    """The metrics of the `epoch`-th evaluation, after `step` optimizer steps."""

    epoch: int
    step: int
    metrics: dict[str, float]


@dataclass
class FitResult:
    """The state of a run, and its result at the end."""

    status: str = "complete"  # or `diverged`, `stalled`, `missed` (the target wasn't reached), `pruned`
    steps: int = 0  # optimizer steps taken
    evaluations: list[Evaluation] = field(default_factory=list)  # a run that diverges between two has no later one
    train_seconds: float = 0.0  # in training alone, without evaluation

    @property
    def has_test(self) -> bool:
        """Whether the trained network is evaluated on the test split."""
        return self.status not in ("diverged", "pruned")


@dataclass
class DivergenceMonitor:
    """Watches the training loss, in means over short windows."""

    guess_loss: float  # mean loss of the best constant guess, in nats
    start_loss: float = math.nan  # loss of the first batch, before any update; NaN until it is known
    peak_loss: float = -math.inf  # the highest window so far

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

    With a target it is the number of steps until it was reached (the whole budget if it was missed). Otherwise it is
    the metric `objective` at the last evaluation; a diverged run counts as ten times the loss of the best constant
    guess, or as an error of 1.
    """
    if plan.target:
        return float(result.steps if result.status == "complete" else plan.total_steps)
    limit = 1.0 if objective.endswith("error") else DIVERGED_FACTOR * guess_loss
    if result.status == "diverged" or not result.evaluations:
        return limit
    value = result.evaluations[-1].metrics[objective]
    return min(value, limit) if math.isfinite(value) else limit
