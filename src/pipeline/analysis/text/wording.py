"""Pieces of sentences that several modules use: lists of batch sizes, numbers with their interval."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.analysis.stats.results import BatchResult, Estimate


def join(parts: Sequence[str]) -> str:
    """Join parts of a sentence: `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def list_batches(cells: Sequence[BatchResult]) -> str:
    """List batch sizes as `32, 64`."""
    return ", ".join(str(cell.batch) for cell in cells)


def list_batches_by(cells: Sequence[BatchResult], key: Callable[[BatchResult], Any]) -> dict[Any, str]:
    """List the batch sizes of each value of `key`; four or more neighbours become a range, `32 … 256`."""
    parts: dict[Any, list[str]] = {}
    for value, group in itertools.groupby(cells, key=key):
        series = list(group)
        text = f"{series[0].batch} … {series[-1].batch}" if len(series) > 3 else list_batches(series)
        parts.setdefault(value, []).append(text)
    return {value: ", ".join(found) for value, found in parts.items()}


def estimate_text(estimate: Estimate, digits: str = ".2f", label: str = "95 %: ") -> str:
    """Write a number with its interval: `0.51 (95 %: 0.45 … 0.56)`."""
    value, low, high = (_number(number, digits) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({label}{low} … {high})"


def _number(value: float, digits: str) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    # Format `g` would write 1234 as 1.23e+03.
    return f"{value:{digits}}" if abs(value) < 1000 else f"{value:.0f}"
