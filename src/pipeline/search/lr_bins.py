"""Runs at about the same learning rate: within a quarter of an octave they are taken as one place."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Run = TypeVar("Run")


def bin_by_lr(runs: Iterable[Run], octave: Callable[[Run], float]) -> dict[float, list[Run]]:
    """Runs in groups by their log2 LR, rounded to a quarter of an octave."""
    places: dict[float, list[Run]] = {}
    for run in runs:
        places.setdefault(round(octave(run) * 4) / 4, []).append(run)
    return places
