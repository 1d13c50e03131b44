"""Pieces of sentences that several modules use: lists of batch sizes, numbers with their interval."""

import itertools
import math
from collections.abc import Callable, Sequence

from pipeline.analysis.stats.results import BatchResult, Estimate

# Longer series of batch sizes are written as a range.
MOST_LISTED = 3


def list_batches(cells: Sequence[BatchResult]) -> str:
    """List batch sizes as `32, 64`."""
    return ", ".join(str(cell.batch) for cell in cells)


def list_batches_where(cells: Sequence[BatchResult], condition: Callable[[BatchResult], bool]) -> str:
    """List the batch sizes that meet `condition`; four or more neighbours become a range, `32 … 256`."""
    parts: list[str] = []
    for is_met, group in itertools.groupby(cells, key=condition):
        series = list(group)
        if is_met:
            is_long = len(series) > MOST_LISTED
            parts.append(f"{series[0].batch} … {series[-1].batch}" if is_long else list_batches(series))
    return ", ".join(parts)


def estimate_text(estimate: Estimate, digits: str = ".2f", label: str = "95 %: ") -> str:
    """Write a number with its interval: `0.51 (95 %: 0.45 … 0.56)`."""
    value, low, high = (_number(number, digits) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({label}{low} … {high})"


def _number(value: float, digits: str) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    # Format `g` would write 1234 as 1.23e+03.
    return f"{value:{digits}}" if abs(value) < 1000 else f"{value:.0f}"
