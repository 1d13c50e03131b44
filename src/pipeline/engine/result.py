"""What a training run returns: its status and its evaluations."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """The metrics of the `epoch`-th evaluation, after `step` optimizer steps."""

    epoch: int
    step: int
    metrics: dict[str, float]


@dataclass
class FitResult:
    """The state of a run, and its result at the end.

    Attributes:
        status: `complete`, `diverged`, `stalled`, `missed` (the target wasn't reached) or `pruned`.
        steps: optimizer steps taken.
        evaluations: in order; a run that diverges between two has no later one.
        train_seconds: time in training alone, without evaluation.
    """

    status: str = "complete"
    steps: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    train_seconds: float = 0.0

    @property
    def has_test(self) -> bool:
        """Whether the trained network is evaluated on the test split."""
        return self.status not in ("diverged", "pruned")
