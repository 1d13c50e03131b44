"""Measure several things in turn, so that a machine whose speed drifts affects all of them equally."""

import json
import os
import statistics
from collections.abc import Callable, Mapping


def in_turn(sides: Mapping[str, Callable[[], float]], repeats: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Measure every side in each of `repeats` rounds, after a round that only warms up if `warm_up` says so."""
    rounds = [{name: measure() for name, measure in sides.items()} for _ in range(repeats + warm_up)][warm_up:]
    return {name: [found[name] for found in rounds] for name in sides}


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Return (median, lowest, highest) of the ratios of the rounds."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def show(what: str, target: str, value: float, **more: object) -> None:
    """Print a JSON line with a result and its target."""
    print(
        json.dumps({"what": what, "target": target, "measured": round(value, 3), **more}, ensure_ascii=False),
        flush=True,
    )


def clean_environment() -> dict[str, str]:
    """Return the environment without MLflow's and Hydra's variables, which could change where or how a run works."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "HYDRA_"))}
