"""The artifact `replicates.csv` of a run: one row for each evaluation of each replicate."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# Its path among the run's artifacts.
REPLICATES = "replicates.csv"
_FIXED = ("seed", "status", "evaluation", "step")


@dataclass(frozen=True)
class ReplicateRow:
    """An evaluation of one replicate.

    Attributes:
        seed, status: of the replicate; the status is that at its end.
        evaluation, step: the evaluation's number from 1, and the optimizer steps before it; the number is 0, and there
            are no metrics, for a replicate that ended before its first evaluation.
        metrics: as a run of this seed alone logs them.
    """

    seed: int
    status: str
    evaluation: int
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)


def write_replicates(rows: Iterable[ReplicateRow]) -> str:
    """Return the table as CSV; numbers have all their digits."""
    rows = list(rows)
    metrics = list({key: None for row in rows for key in row.metrics})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIXED, *metrics])
    for row in rows:
        values = [repr(row.metrics[key]) if key in row.metrics else "" for key in metrics]
        writer.writerow([row.seed, row.status, row.evaluation, row.step, *values])
    return text.getvalue()


def read_replicates(text: str) -> list[ReplicateRow]:
    """Read what `write_replicates` wrote.

    Raises:
        ValueError: the text is no such table.
    """
    rows = []
    for row in csv.DictReader(io.StringIO(text)):
        if missing := [key for key in _FIXED if row.get(key) in (None, "")]:
            raise ValueError(f"{REPLICATES} has no {missing[0]}")
        metrics = {key: float(value) for key, value in row.items() if key not in _FIXED and value}
        rows.append(ReplicateRow(int(row["seed"]), row["status"], int(row["evaluation"]), int(row["step"]), metrics))
    if not rows:
        raise ValueError(f"{REPLICATES} is empty")
    return rows
