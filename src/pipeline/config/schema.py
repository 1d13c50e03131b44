"""The configuration's names and types, as dataclasses; the values stand in `conf/`."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import RequestError
from pipeline.recipe.budget import Budget
from pipeline.recipe.scaling import Scaling
from pipeline.recipe.schedule import Schedule


@dataclass(kw_only=True)
class Batching:
    """How a batch is formed: `micro_batch` is the most examples in one forward pass, `auto`, or None for all."""

    micro_batch: int | str | None = "auto"


@dataclass(kw_only=True)
class NoiseScale:
    """When the gradient noise scale is measured (evaluations, 1 the first, -1 the last), and on how many examples."""

    epochs: list[int] = field(default_factory=list)
    examples: int


@dataclass(kw_only=True)
class Tracking:
    """Where runs are tracked and which checkpoints they keep."""

    uri: str
    experiment: str
    checkpoints: str = "best"
    log_model: str = "none"


@dataclass(kw_only=True)
class Runtime:
    """What a run computes on and in; `threads` and `stack` are a number or `auto`."""

    device: str = "auto"
    threads: int | str = "auto"
    precision: str = "auto"
    memory_format: str = "auto"
    workers: int = 1
    compile: bool = False
    stack: int | str = "auto"


@dataclass(kw_only=True)
class Search:
    """The LR's search range: octaves (factors of two) either side of the rule's LR."""

    octaves: float = 5.0


@dataclass(kw_only=True)
class Sweep:
    """A sweep's name, and the MLflow run that its trials belong to."""

    name: str
    parent: str | None = None


@dataclass(kw_only=True)
class Confirm:
    """How fresh seeds judge the rule after the search.

    Attributes:
        looks: after how many pairs of runs each verdict is tried; none means no confirmation.
        runs, seconds: no look begins that would exceed so many runs, or after so many seconds; None is no limit.
    """

    looks: list[int] = field(default_factory=lambda: [12, 24, 48, 96])
    runs: int | None = None
    seconds: float | None = None


@dataclass(kw_only=True)
class Report:
    """The margin within which two losses count as equal, a share ("10%") or an absolute loss; and the confirmation."""

    margin: int | float | str = "10%"
    confirm: Confirm = field(default_factory=Confirm)


@dataclass(kw_only=True)
class Config:
    """The whole configuration, resolved.

    `dataset`, `model` and `optimizer` hold the arguments of what their `_target_` names, which checks them itself.
    `seed` is one seed, or `first-last` for the replicates that the run trains.
    """

    batch: int
    seed: int | str = 0
    resume: str | None = None
    objective: str = "val/loss"
    dataset: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaling: Scaling
    schedule: Schedule
    budget: Budget
    batching: Batching = field(default_factory=Batching)
    noise_scale: NoiseScale
    tracking: Tracking
    runtime: Runtime = field(default_factory=Runtime)
    search: Search = field(default_factory=Search)
    sweep: Sweep
    report: Report = field(default_factory=Report)

    @property
    def seeds(self) -> range:
        """The seeds of the run's replicates.

        Raises:
            RequestError: `seed` is neither a seed nor a range of them.
        """
        first, _, last = str(self.seed).partition("-")
        if not (first.isdecimal() and (last or "0").isdecimal()) or str(self.seed).endswith("-"):
            raise RequestError(f"seed={self.seed}: it must be a whole number from 0 up, or a range like 0-11.")
        if last and int(last) < int(first):
            raise RequestError(f"seed={self.seed}: the range is empty.\nWrite the smaller seed first: {last}-{first}.")
        return range(int(first), int(last or first) + 1)
