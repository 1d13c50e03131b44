"""What a training came to."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """What was measured at one evaluation point: `step` optimizer steps done, the `epoch`-th evaluation."""

    epoch: int
    step: int
    metrics: dict[str, float]


@dataclass
class FitResult:
    """How a run ended.

    Attributes:
        status: `complete`, `diverged`, `stalled`, `missed` (a target that wasn't reached) or `pruned`.
        steps: optimizer steps that were taken.
        evaluations: in order; a diverged run has none after it diverged.
        train_seconds: time in training alone, without evaluation.
    """

    status: str
    steps: int
    evaluations: list[Evaluation] = field(default_factory=list)
    train_seconds: float = 0.0

    @property
    def has_test(self) -> bool:
        """Whether its network is worth a look at the test split."""
        return self.status not in ("diverged", "pruned")
