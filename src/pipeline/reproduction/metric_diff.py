"""Comparing a run with its repetition, number by number."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

# What measures the machine and not the training.
NOT_COMPARED = "examples_per_second"
# SQL has no infinity: MLflow stores the largest double instead.
LARGEST = 1.7976931348623157e308

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


def compare(logged: History, found: History, tolerance: float, only_logged: bool) -> tuple[list[MetricDifference], int]:
    """The values that differ by more than `tolerance` (relative), and how many were compared.

    NaN equals NaN. `only_logged`: values that were never logged are not missed, since the run was cut short.
    """
    differences, count = [], 0
    for metric in sorted({*logged, *found} - {NOT_COMPARED}):
        before, now = logged.get(metric, {}), found.get(metric, {})
        for step in sorted(before if only_logged else {*before, *now}):
            count += 1
            row = MetricDifference(metric, step, before.get(step), now.get(step))
            if not _equal(row, tolerance):
                differences.append(row)
    return differences, count


def _equal(row: MetricDifference, tolerance: float) -> bool:
    if row.logged is None or row.found is None:
        return False
    logged, found = _bounded(row.logged), _bounded(row.found)
    if math.isnan(logged) or math.isnan(found):
        return math.isnan(logged) and math.isnan(found)
    return logged == found or row.relative <= tolerance


def _bounded(value: float) -> float:
    return max(-LARGEST, min(LARGEST, value)) if not math.isnan(value) else value


def package_changes(then: str, now: str) -> str:
    """What differs between two requirements files, in words; empty where nothing does."""
    before, after = (dict(line.split("==", 1) for line in text.splitlines() if "==" in line) for text in (then, now))
    changed = [f"{n} {before[n]} → {after[n]}" for n in sorted(before) if n in after and before[n] != after[n]]
    gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    words = [", ".join(changed)] if changed else []
    words += [f"missing now: {', '.join(gone)}"] if gone else []
    words += [f"new: {', '.join(new)}"] if new else []
    return "; ".join(words)
