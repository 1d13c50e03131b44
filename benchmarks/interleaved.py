"""Measuring things in turn, so that a machine whose speed drifts slows all of them alike."""

import json
import os
import statistics
from collections.abc import Callable, Mapping


def in_turn(sides: Mapping[str, Callable[[], float]], repeats: int, warm_up: bool = True) -> dict[str, list[float]]:
    """`repeats` rounds of every side, after one that pays for cold caches where they warm up."""
    rounds = [{name: measure() for name, measure in sides.items()} for _ in range(repeats + warm_up)][warm_up:]
    return {name: [found[name] for found in rounds] for name in sides}


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """(median, lowest, highest) of the rounds' ratios."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def show(what: str, target: str, value: float, **more: object) -> None:
    """A JSON line of one result beside its target."""
    print(
        json.dumps({"what": what, "target": target, "measured": round(value, 3), **more}, ensure_ascii=False),
        flush=True,
    )


def clean_environment() -> dict[str, str]:
    """The environment without what would send a run elsewhere."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "HYDRA_"))}
