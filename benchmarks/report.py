"""Measure the time and memory that a report of many runs takes: `python benchmarks/report.py`."""

import argparse
import re
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.analysis.run_table import write_table
from pipeline.analysis.runs import Run
from pipeline.report import main as report


def table(runs: int, batches: int, seeds: int, rng: np.random.Generator) -> list[Run]:
    """Simulate runs of a workload whose best LR saturates, spread over three octaves below and above it."""
    found = []
    for number in range(runs):
        batch = 4 * 2 ** (number % batches)
        best = np.log2(1 / (1 + 128 / batch))
        octave = best + rng.uniform(-3, 3)
        loss = 0.2 * np.exp(0.05 * (octave - best) ** 2 + rng.normal(0, 0.03))
        seed = number // batches % seeds
        columns = {"train_loss": 0.9 * loss, "error": 0.3 * loss, "test_loss": loss, "steps": 1000}
        found.append(Run(batch, float(2**octave), float(loss), seed=seed, **columns))
    return found


def main() -> None:
    """Time the whole command, with page, figures and JSON, at increasing numbers of runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="*", default=[1250, 2500, 5000, 10000])
    options = parser.parse_args()
    for runs in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "runs.csv"
            write_table(table(runs, batches=10, seeds=20, rng=np.random.default_rng(0)), path)
            files = ["--html", f"{folder}/a.html", "--json", f"{folder}/a.json", "--figures", f"{folder}/figures"]
            started, worked = time.perf_counter(), time.process_time()
            report(["--table", str(path), *files])
            seconds, size = time.perf_counter() - started, (Path(folder) / "a.html").stat().st_size
            work = time.process_time() - worked
        # Not from getrusage, where a child process starts with its parent's peak.
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        memory = int(peak[1]) / 1024 if peak else float("nan")
        took = f"{seconds:.1f} s, {work:.1f} s of processor time, peak memory so far {memory:.0f} MB"
        print(f"== {runs} runs: {took}, page {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
