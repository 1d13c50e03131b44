"""Measure what a trial costs beside its training: the processor time of sweeper, Hydra, Optuna and MLflow.

    python benchmarks/overhead.py

It runs a sweep whose trials train one step on the digits, of one seed or of sixteen replicates, and fits a line to the
processor time of the driver and all workers over the number of finished trials. The first quarter of the trials is left
out, so neither start nor report counts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from interleaved import show

TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(root: int) -> float:
    """Return the processor time of a process and its running descendants, from /proc."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        ticks[pid] = int(fields[11]) + int(fields[12])
    tree = {root}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(ticks.get(pid, 0) for pid in tree) / TICKS


def measure(trials: int, workers: int, seeds: str) -> float:
    """Run a sweep; return its processor seconds for each trial."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipeline.train", "-m", "batch=64", f"seed={seeds}", "budget=steps"]
        command += ["budget.steps=1", f"hydra.sweeper.n_trials={trials}", "hydra/sweeper/sampler=random"]
        command += [f"hydra.launcher.n_jobs={workers}", "model.hidden=[64]"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journal = Path(folder) / "mlruns" / "optuna.journal"
        points: list[tuple[int, float]] = []
        while process.poll() is None:
            # State 1 is Optuna's COMPLETE; it is a trial's last line in the journal.
            done = journal.read_bytes().count(b'"state":1') if journal.exists() else 0
            points.append((done, processor_seconds(process.pid)))
            time.sleep(0.2)
    counted = [(done, seconds) for done, seconds in points if trials / 4 <= done < trials]
    return float(np.polyfit(*zip(*counted, strict=True), deg=1)[0])


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--trials", type=int, default=80)
    arguments.add_argument("--repeats", type=int, default=5)
    given = arguments.parse_args()
    for seeds, replicates, target in (("0,1", 1, ""), ("0-15", 16, "≤ 10")):
        for workers in (1, 2):
            found = [1000 * measure(given.trials, workers, seeds) / replicates for _ in range(given.repeats)]
            show(
                f"ms of processor time a replicate beside training: {replicates} in a trial, {workers} worker(s)",
                target,
                statistics.median(found),
                range=[round(min(found), 1), round(max(found), 1)],
            )
