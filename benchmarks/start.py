"""Measure how long the command takes to start: `python benchmarks/start.py`.

`--help` and `--cfg job` are compared with an empty Hydra app that has the same conf/ and schemas, and a run up to its
first step with a process that only imports torch and mlflow. `--collector` measures instead how long a process that
imports both and exits takes with Python's garbage collector as usual, and with it running seldom.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

from interleaved import clean_environment, in_turn, ratio, show

EMPTY_APP = """
import hydra
from pipeline.config import conf_dir, register
register()
@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def main(cfg):
    pass
main()
"""
# The whole command, up to its first optimizer step, where the process exits.
FIRST_STEP = """
import os, sys
from hydra_plugins import lr_study_sweeper
import pipeline.train
from pipeline import command
def exit_at_the_first_step(*arguments, **more):
    os._exit(0)
import pipeline.engine.optimizer_step
pipeline.engine.optimizer_step.Stepper.step = exit_at_the_first_step
sys.argv = ["train", "tracking.checkpoints=none"]
command.run_command(pipeline.train.main)
"""
IMPORTS = "import torch, mlflow, os; from mlflow import MlflowClient; os._exit(0)"

# The same, with the process's normal exit.
TO_THE_END = "import torch, mlflow; from mlflow import MlflowClient"
SELDOM = "from pipeline.process.collector import collect_seldom; collect_seldom(); "


def seconds(*command: str) -> float:
    """Return how long `python *command` takes in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *command], cwd=folder, env=clean_environment(), stdout=subprocess.DEVNULL, check=True
        )
        return time.perf_counter() - started


def collector(repeats: int) -> None:
    """Measure what garbage collection costs during the imports and at exit."""
    sides = {"usual": lambda: seconds("-c", TO_THE_END), "seldom": lambda: seconds("-c", SELDOM + TO_THE_END)}
    found = in_turn(sides, repeats)
    median, low, high = ratio(found["usual"], found["seldom"])
    medians = {name: round(statistics.median(values), 2) for name, values in found.items()}
    show(
        "imports of torch and mlflow, and exit: garbage collection as usual ÷ seldom",
        "–",
        median,
        range=[low, high],
        seconds=medians,
    )


def main(repeats: int) -> None:
    """Measure and print."""
    for arguments in (["--help"], ["--cfg", "job"]):
        found = in_turn(
            {
                "ours": lambda given=arguments: seconds("-m", "pipeline.train", *given),
                "empty": lambda given=arguments: seconds("-c", EMPTY_APP, *given),
            },
            repeats,
        )
        median, low, high = ratio(found["ours"], found["empty"])
        medians = {name: round(statistics.median(values), 2) for name, values in found.items()}
        show(
            f"{' '.join(arguments)} ÷ empty Hydra app",
            "≤ 1.15",
            median,
            range=[round(low, 2), round(high, 2)],
            seconds=medians,
        )
    found = in_turn({"run": lambda: seconds("-c", FIRST_STEP), "imports": lambda: seconds("-c", IMPORTS)}, repeats)
    beyond = [run - imports for run, imports in zip(found["run"], found["imports"], strict=True)]
    medians = {name: round(statistics.median(values), 2) for name, values in found.items()}
    show("a run's first step beyond importing torch and mlflow, s", "≤ 0.5", statistics.median(beyond), seconds=medians)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--collector", action="store_true", help="measure garbage collection instead")
    given = parser.parse_args()
    (collector if given.collector else main)(given.repeats)
