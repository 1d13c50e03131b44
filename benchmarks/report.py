"""How long a report of many runs takes, and how much memory: `python benchmarks/report.py`."""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.analysis.table import Run, write_table
from pipeline.report import main as report


def table(runs: int, batches: int, seeds: int, rng: np.random.Generator) -> list[Run]:
    """Runs of a workload whose best LR saturates, spread over three octaves either side of it."""
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
    """Time the whole command, with page, figures and JSON, at growing numbers of runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="*", default=[1250, 2500, 5000, 10000])
    options = parser.parse_args()
    for runs in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "runs.csv"
            write_table(table(runs, batches=10, seeds=20, rng=np.random.default_rng(0)), path)
            files = ["--html", f"{folder}/a.html", "--json", f"{folder}/a.json", "--figures", f"{folder}/figures"]
            started = time.perf_counter()
            report(["--table", str(path), *files])
            seconds, size = time.perf_counter() - started, (Path(folder) / "a.html").stat().st_size
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"== {runs} runs: {seconds:.1f} s, {memory:.0f} MB at most so far, page {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
