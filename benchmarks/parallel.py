"""Time the main job's search on one worker and on all cores, in turn: `python benchmarks/parallel.py`."""

import re
import statistics
import subprocess
import sys
import tempfile

from lr_study import available_cores

REPEATS = 2


def search_seconds(workers: int) -> float:
    """Return the seconds from the first trial to the last, as the sweep prints them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipeline.train", "-m", "experiment=linear_rule"]
        command += [f"hydra.launcher.n_jobs={workers}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found = re.search(r"168/168 trials, (\d+) s", done.stderr)
    assert found, done.stderr
    return float(found.group(1))


def main() -> None:
    """Print the medians and their ratio."""
    workers = (1, available_cores())
    seconds: dict[int, list[float]] = {count: [] for count in workers}
    for _ in range(REPEATS):
        for count in workers:
            seconds[count].append(search_seconds(count))
    one, all_cores = (statistics.median(seconds[count]) for count in workers)
    print(f"1 worker {one:.0f} s {seconds[1]}, {workers[1]} workers {all_cores:.0f} s {seconds[workers[1]]}")
    print(f"ratio {all_cores / one:.2f}")


if __name__ == "__main__":
    main()
