"""Run the main job several times, with other seeds each time: what it decides, and how long it takes.

    python benchmarks/main_job.py --repeats 10    # about a quarter of an hour on two cores

For each repetition it prints the seconds of the whole command, the training runs in it, the batch sizes at which linear
holds and breaks, and the median width of the best LRs' intervals; at the end what all of them show. `overhead.py` has
the cost beside training.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from interleaved import clean_environment, show

SWEEP = "main-job"
SEARCH_SEEDS = 16


def run_job(folder: Path, repetition: int) -> dict[str, Any]:
    """Run the main job with its own seeds of search and confirmation; return what it took and what it says."""
    first = SEARCH_SEEDS * repetition
    command = [sys.executable, "-m", "pipeline.train", "-m", "experiment=linear_rule", f"sweep.name={SWEEP}"]
    command += [f"seed={first}-{first + SEARCH_SEEDS - 1}", f"hydra.sweeper.seed={repetition}"]
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=clean_environment(), check=True, capture_output=True)
    seconds = time.perf_counter() - started
    answer, runs = read_results(folder)
    verdicts = {
        batch["batch"]: batch["rules"]["linear"]["verdict"]
        for batch in answer["batches"]
        if batch["batch"] != answer["base_batch"]
    }
    widths = [
        math.log2(batch["ci_high"] / batch["ci_low"]) if batch["best_lr"] is not None else math.inf
        for batch in answer["batches"]
    ]
    return {
        "seconds": round(seconds, 1),
        "runs": runs,
        "holds": [batch for batch, verdict in verdicts.items() if verdict == "holds"],
        "breaks": [batch for batch, verdict in verdicts.items() if verdict == "breaks"],
        "open": {batch: verdict for batch, verdict in verdicts.items() if verdict not in ("holds", "breaks")},
        "median_width_octaves": round(statistics.median(widths), 2),
    }


def read_results(folder: Path) -> tuple[dict[str, Any], int]:
    """Return the answer in report.json, and the number of training runs."""
    from pipeline.tracking.artifact import read_artifact
    from pipeline.tracking.store import open_existing_store
    from pipeline.tracking.sweep import find_parent

    store = open_existing_store(f"sqlite:///{folder}/mlruns/mlflow.db", "lr-batch")
    parent = find_parent(store, SWEEP)
    assert parent is not None
    answer = json.loads(read_artifact(store.client, parent.info.run_id, "report/report.json"))
    table = read_artifact(store.client, parent.info.run_id, "report/runs.csv")
    return answer, len(table.splitlines()) - 1


def main() -> None:
    """Run the repetitions and sum them up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    found = []
    for repetition in range(parser.parse_args().repeats):
        with tempfile.TemporaryDirectory() as folder:
            found.append(run_job(Path(folder), repetition))
        print(json.dumps({"repetition": repetition} | found[-1]), flush=True)
    decided = [job for job in found if len(job["holds"]) + len(job["breaks"]) >= 6 and job["holds"] and job["breaks"]]
    show("repetitions that decide 6 of 7, with a holds and a breaks", "≥ 9 of 10", len(decided), of=len(found))
    for what, target in (
        ("seconds", "≤ 150"),
        ("runs", "≥ 2000"),
        ("median_width_octaves", "≤ 0.5"),
    ):
        values = sorted(job[what] for job in found)
        show(f"main job: {what}", target, statistics.median(values), range=[values[0], values[-1]])


if __name__ == "__main__":
    main()
