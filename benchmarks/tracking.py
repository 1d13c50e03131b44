"""Measure what tracking costs a run: `python benchmarks/tracking.py`. It prints JSON lines and a table.

A run of 20 epochs is tracked in SQLite. Measured are the time that the training thread waits in calls, the processor
time of the process, and the time at the end of the run until everything is sent. MLflow's import and the creation of
the database happen before: a process imports once, and a database is created once.
"""

import argparse
import json
import statistics
import tempfile
import time

from pipeline.tracking.run import TrackedRun
from pipeline.tracking.target import TrackingTarget

EPOCHS = 20
METRICS = [
    "train/loss",
    "train/error",
    "val/loss",
    "val/error",
    "lr",
    "grad_norm",
    "examples_per_second",
    "optimizer_steps",
    "examples",
]
PARAMS = 60
CONFIG = "key: value\n" * 150


def measure(target: TrackingTarget, seconds: float) -> dict[str, float]:
    """Track one run whose training sleeps for `seconds`; return the times in milliseconds."""
    waited = 0.0

    def call(function, *arguments) -> None:
        nonlocal waited
        started = time.perf_counter()
        function(*arguments)
        waited += time.perf_counter() - started

    processor = time.process_time()
    started = time.perf_counter()
    run = TrackedRun(target, "cost", {"pipeline": "run"})
    waited += time.perf_counter() - started
    call(run.log_params, {f"group.parameter{i}": i for i in range(PARAMS)})
    call(run.log_text, CONFIG, "config/config.yaml")
    call(run.log_text, "- batch=256\n", "config/overrides.yaml")
    call(run.log_dataset, "digits", "0" * 32, "sklearn", 1077)
    for epoch in range(1, EPOCHS + 1):
        time.sleep(seconds / EPOCHS)
        call(run.log_metrics, dict.fromkeys(METRICS, epoch / 7), epoch)
    ended = time.perf_counter()
    run.close("complete", "FINISHED")
    assert run.is_sent
    return {
        "seconds": seconds,
        "waited_ms": 1000 * waited,
        "cpu_ms": 1000 * (time.process_time() - processor),
        "end_ms": 1000 * (time.perf_counter() - ended),
    }


def main() -> None:
    """Measure short and long runs in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        target = TrackingTarget(f"sqlite:///{folder}/mlflow.db", "cost")
        measure(target, 0.1)  # imports MLflow and creates the database
        rows = [measure(target, seconds) for _ in range(repeats) for seconds in (1.0, 12.0)]
    for row in rows:
        print(json.dumps(row))
    print("\nrun of 20 epochs   training waits   processor time   wait at the end   (medians, ms)")
    for seconds in (1.0, 12.0):
        of = [row for row in rows if row["seconds"] == seconds]
        waited, cpu, end = (statistics.median(row[key] for row in of) for key in ("waited_ms", "cpu_ms", "end_ms"))
        print(f"{seconds:13.0f} s   {waited:14.1f}   {cpu:14.0f}   {end:15.0f}")


if __name__ == "__main__":
    main()
