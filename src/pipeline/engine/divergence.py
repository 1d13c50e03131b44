"""When has a run failed? Diverged and stalled runs are results, and these are their definitions."""

import math
from dataclasses import dataclass

# Diverged: the loss grew to ten times what it was at the start.
DIVERGED_FACTOR = 10.0
# Stalled: it left the start's neighbourhood upwards (by more than this factor) …
LEFT_UPWARDS = 1.05
# … and ended at no less than this share of the best constant guess.
NEAR_GUESS = 0.95


@dataclass
class DivergenceMonitor:
    """Watches the training loss, in means over short windows.

    Attributes:
        guess_loss: mean loss of the best constant guess, in nats.
        start_loss: loss of the first batch, before any update; set by `start`.
        peak_loss: the highest window so far.
    """

    guess_loss: float
    start_loss: float = math.nan
    peak_loss: float = -math.inf

    def start(self, loss: float) -> None:
        """Take the loss of the first batch."""
        self.start_loss = loss

    def diverged(self, window_loss: float) -> bool:
        """Record a window's mean loss, and say whether the run has diverged."""
        if not math.isfinite(window_loss):
            return True
        self.peak_loss = max(self.peak_loss, window_loss)
        return window_loss > DIVERGED_FACTOR * max(self.start_loss, self.guess_loss)

    def stalled(self, final_train_loss: float) -> bool:
        """Whether a run that ended at `final_train_loss` fell back to a constant guess.

        A high loss alone doesn't say so: healthy runs at a small LR also end near it. What only too large an
        LR does is to drive the loss up first. (A run that fell back without such a peak is found later, by
        comparison with the smaller LRs of its cell: `pipeline.analysis.runs.mark_stalled`.)
        """
        left = self.peak_loss > LEFT_UPWARDS * max(self.start_loss, self.guess_loss)
        return left and final_train_loss >= NEAR_GUESS * self.guess_loss


def bounded_loss(loss: float, guess_loss: float) -> float:
    """A failed run's loss as a number that a search can use: at most ten times the best constant guess."""
    limit = DIVERGED_FACTOR * guess_loss
    return min(loss, limit) if math.isfinite(loss) else limit
