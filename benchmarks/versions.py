"""Compare the speed of this checkout with that of another one: `python benchmarks/versions.py OTHER_CHECKOUT`.

This is for changes that should cost no speed. Make the other checkout with `git worktree add ../before COMMIT`. Both
versions run in turn, with the Python that runs this script, each in an empty folder. A ratio above 1 means that this
checkout is faster.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from interleaved import clean_environment, in_turn, ratio, show

HERE = Path(__file__).resolve().parents[1]
TRAIN = ("-m", "pipeline.train", "runtime.threads=1", "tracking.checkpoints=none")
TABLE = str(HERE / "docs" / "results" / "fashion_mnist" / "runs.csv")
COMMANDS = {
    "help": ("-m", "pipeline.train", "--help"),
    "composed configuration": ("-m", "pipeline.train", "--cfg", "job", "--resolve"),
    "single run": TRAIN,
    "steps of mlp at batch 32": (*TRAIN, "batch=32", "budget=steps", "budget.steps=20000"),
    "steps of simple_cnn at batch 256": (*TRAIN, "batch=256", "model=simple_cnn", "budget=steps", "budget.steps=300"),
    "sweep of 56 trials": ("-m", "pipeline.train", "experiment=linear_rule", "hydra.sweeper.n_trials=8", "-m"),
    "report on a table": ("-m", "pipeline.report", "--table", TABLE, "--html", "report.html", "--json", "report.json"),
}


def measure(checkout: Path, command: tuple[str, ...]) -> tuple[float, float]:
    """Run `command` from `checkout`: (seconds, processor seconds with those of its children)."""
    environment = clean_environment() | {"PYTHONPATH": str(checkout / "src")}
    before, started = os.times(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, used


def main() -> None:
    """Measure each command in both checkouts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the other version's checkout")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    options = parser.parse_args()
    sides = {"other": options.other.resolve(), "here": HERE}
    for name in options.only:
        found = in_turn({side: partial(measure, path, COMMANDS[name]) for side, path in sides.items()}, options.repeats)
        for position, what in enumerate(("seconds", "processor seconds")):
            other, here = ([run[position] for run in found[side]] for side in sides)
            median, low, high = ratio(other, here)
            show(f"{name}: other / here, {what}", "0.97", median, low=low, high=high, here=statistics.median(here))


if __name__ == "__main__":
    main()
