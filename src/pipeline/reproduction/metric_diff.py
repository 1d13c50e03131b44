"""What differs between the metrics of a run and of its repetition."""

import itertools
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.analysis.replicate_table import ReplicateRow

# This metric measures the machine, not the training.
NOT_COMPARED = "examples_per_second"
# Where rounding may differ, an answer may turn over: errors may then differ by this much.
ERROR_SLACK = 0.01
# SQL has no infinity: MLflow stores the largest double instead.
LARGEST = sys.float_info.max

History = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class MetricDifference:
    """One value that differs; None where one side has none."""

    metric: str
    step: int
    logged: float | None
    found: float | None

    @property
    def relative(self) -> float:
        """|logged − found| over the larger magnitude; infinite where one is missing or not a number."""
        if self.logged is None or self.found is None or not math.isfinite(self.logged - self.found):
            return math.inf
        return abs(self.logged - self.found) / max(abs(self.logged), abs(self.found))


def diff_metrics(
    logged: History, found: History, tolerance: float, only_logged: bool
) -> tuple[list[MetricDifference], int]:
    """The values that differ by more than `tolerance` (relative), and how many were compared; NaN equals NaN.

    Args:
        logged, found: the values of each metric, by step, of the run and of its repetition.
        tolerance: relative difference that counts as none; 0 asks for equality bit for bit.
        only_logged: compare only values that the run logged, since it ended before its budget did.
    """
    differences, count = [], 0
    for metric in sorted({*logged, *found} - {NOT_COMPARED, f"{NOT_COMPARED}_sd"}):
        before, now = logged.get(metric, {}), found.get(metric, {})
        for step in sorted(before if only_logged else {*before, *now}):
            count += 1
            row = MetricDifference(metric, step, before.get(step), now.get(step))
            if not _is_equal(row, tolerance):
                differences.append(row)
    return differences, count


def _is_equal(row: MetricDifference, tolerance: float) -> bool:
    if row.logged is None or row.found is None:
        return False
    if math.isnan(row.logged) or math.isnan(row.found):
        return math.isnan(row.logged) and math.isnan(row.found)
    logged, found = (max(-LARGEST, min(LARGEST, value)) for value in (row.logged, row.found))
    turned_over = tolerance > 0 and row.metric.endswith("error") and abs(logged - found) <= ERROR_SLACK
    return logged == found or row.relative <= tolerance or turned_over


def history_of(rows: Iterable[ReplicateRow], prefix: str = "") -> dict[str, dict[int, float]]:
    """Return the metrics of one replicate, named `prefix` and their key, by evaluation."""
    history: dict[str, dict[int, float]] = {}
    for row in rows:
        for key, value in row.metrics.items():
            history.setdefault(f"{prefix}{key}", {})[row.evaluation] = value
    return history


def histories_of(rows: Iterable[ReplicateRow]) -> dict[str, dict[int, float]]:
    """Return the metrics of all replicates, named `seed 3 val/loss`; whether each diverged is a metric, too."""
    history: dict[str, dict[int, float]] = {}
    for seed, own in itertools.groupby(rows, key=lambda row: row.seed):
        of_seed = list(own)
        history |= history_of(of_seed, f"seed {seed} ")
        history[f"seed {seed} diverged"] = {0: float(of_seed[-1].status == "diverged")}
    return {key: values for key, values in history.items() if not key.endswith(NOT_COMPARED)}
