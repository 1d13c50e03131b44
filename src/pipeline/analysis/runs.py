"""The row of a table of runs, `Run`, and ways to group rows: by workload, by objective, by how they ended."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.recipe.statuses import COMPLETE, FAILED, NEAR_GUESS

# The phase of runs with fresh seeds at chosen LRs, after the search.
CONFIRM = "confirm"
# Metrics that every row may hold besides `value`, and their columns.
OTHER_OBJECTIVES = {"val/error": "error", "train/loss": "train_loss"}


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        batch: examples in one optimizer step.
        lr: the (peak) learning rate.
        value: the objective, smaller is better; NaN where the run has none.
        seed: which repetition; None where unknown.
        status: one of `pipeline.recipe.statuses.STATUSES`.
        train_loss, error, test_loss: mean training loss, fraction of wrong answers, mean test loss, at the end.
        steps: optimizer steps taken.
        run_id: the MLflow run that it was read from.
        phase: `search`, or `confirm` for a fresh seed at an LR that was chosen before.
        value_sd, n: where a row is a published mean: the standard deviation of single runs, and how many runs.
        noise_trace, noise_squared_norm: tr Σ and |G|² of the gradient at the last measurement.
        other: any further swept keys.
        reason: the error that ended a run of status `failed`, in a line; empty where it isn't known.
    """

    batch: int
    lr: float
    value: float
    seed: int | None = None
    status: str = COMPLETE
    train_loss: float | None = None
    error: float | None = None
    test_loss: float | None = None
    steps: int | None = None
    run_id: str | None = None
    phase: str = "search"
    value_sd: float | None = None
    n: int | None = None
    noise_trace: float | None = None
    noise_squared_norm: float | None = None
    other: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether training failed at this LR, so that the best LR lies below it."""
        return self.status in FAILED or (self.status == COMPLETE and not math.isfinite(self.value))

    @property
    def usable(self) -> bool:
        """Whether the value may enter a fit."""
        return self.status == COMPLETE and math.isfinite(self.value)


def mark_stalled(runs: Sequence[Run], guess_loss: float) -> list[Run]:
    """Return the runs, with status `stalled` where a run learned nothing although a smaller LR did.

    With a too large LR a network often ends as a constant guess, without any explosion of the loss. With a too small
    LR it has about the same loss. The runs at smaller LRs and the same batch size tell the two apart. `guess_loss` is
    the mean loss of the best constant guess, in nats.
    """
    limit = NEAR_GUESS * guess_loss
    lowest_learning: dict[int, float] = {}
    for run in runs:
        if run.usable and run.train_loss is not None and run.train_loss < limit:
            lowest_learning[run.batch] = min(run.lr, lowest_learning.get(run.batch, math.inf))
    return [
        replace(run, status="stalled")
        if run.status == COMPLETE
        and run.train_loss is not None
        and run.train_loss >= limit
        and run.lr > lowest_learning.get(run.batch, math.inf)
        else run
        for run in runs
    ]


def by_objective(runs: Sequence[Run], objective: str) -> dict[str, list[Run]]:
    """Return the runs, given with `value` by `objective`, once with `value` by each objective that all of them have."""
    tables = {objective: list(runs)}
    usable = [run for run in runs if run.usable]
    for name, column in OTHER_OBJECTIVES.items():
        if name not in tables and usable and all(getattr(run, column) is not None for run in usable):
            tables[name] = [
                run if getattr(run, column) is None else replace(run, value=getattr(run, column)) for run in runs
            ]
    return tables


def by_workload(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs by the other swept keys (`optimizer=adamw`, say); without any there is one group, named ``."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        name = " ".join(f"{key}={value}" for key, value in sorted(run.other.items()))
        groups.setdefault(name, []).append(run)
    return groups


def published_means(runs: Sequence[Run]) -> list[Run]:
    """Return the usable rows if each of them is a published mean of several runs; else nothing."""
    usable = [run for run in runs if run.usable]
    return usable if all(run.n is not None and run.n > 1 for run in usable) else []


def parse_cell_name(name: str) -> frozenset[tuple[str, str]]:
    """Return the (key, value) choices in the name of a sweep's cell: `batch=64,model.hidden=[256,128]`."""
    # A comma inside brackets or quotes doesn't separate choices.
    parts = re.findall(r"""(?:\[[^\]]*\]|\{[^}]*\}|\([^)]*\)|'[^']*'|"[^"]*"|[^,])+""", name)
    return frozenset((key, value) for part in parts for key, _, value in [part.partition("=")] if value)


def workload_file_name(workload: str) -> str:
    """Return the name of a workload as that of a file or folder."""
    return re.sub(r"[^\w.=,\[\]-]+", "-", workload).rstrip(".")  # Windows takes no dot at the end
