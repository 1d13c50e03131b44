"""Measure strong scaling, the same batch on one worker and on two: `python benchmarks/workers.py`.

Each worker has one thread. The upper limit is measured too: two bare loops at the same time, each with half the batch
and without communication. With `--threads` there is also one worker with two threads, the other way to use two cores.
A run's speed is that of its training steps, without evaluations.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from interleaved import clean_environment, in_turn, ratio, show

BARE = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {folder!r})
import loop
print(loop.bare("same", "fp32")("{model}", {batch}, {steps}))
"""
FOLDER = str(Path(__file__).resolve().parent)
# The command, with MLflow imported before: otherwise the import runs beside the first seconds of training.
RUN = """
import sys
import pipeline.tracking.spool.uploader
import pipeline.train
from pipeline import command
command.run_command(pipeline.train.main)
"""
# Two seconds of training by one worker.
CASES = [("mlp", 2048, 50), ("simple_cnn", 256, 8)]


def ours(model: str, batch: int, steps: int, workers: int, threads: int) -> float:
    """Train on Fashion-MNIST; return the examples per second that the run logged."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-c", RUN, "dataset=fashion_mnist", f"model={model}", f"batch={batch}"),
                *("budget=steps", f"budget.steps={steps}", "optimizer.lr=0.01", "tracking.checkpoints=none"),
                "dataset.val_examples=1000",
                *(f"runtime.workers={workers}", f"runtime.threads={threads}"),
            ],
            cwd=folder,
            env=clean_environment(),
            capture_output=True,
            check=True,
        )
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("lr-batch").experiment_id])
        histories = [client.get_metric_history(run.info.run_id, key) for key in ("examples", "examples_per_second")]
        done, rates = ([metric.value for metric in sorted(h, key=lambda m: m.step)] for h in histories)
        trained = [after - before for before, after in pairwise([0, *done])]
        return sum(trained) / sum(count / rate for count, rate in zip(trained, rates, strict=True))


def bare(model: str, batch: int, steps: int, processes: int) -> float:
    """Return the examples per second of all bare loops that run at the same time in `processes`."""
    program = BARE.format(folder=FOLDER, model=model, batch=batch // processes, steps=steps)
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    return sum(float(process.communicate()[0]) for process in started)


def main(repeats: int, with_threads: bool) -> None:
    """Measure and print."""
    for model, batch, steps in CASES:
        case = (model, batch, steps)
        sides = {
            "one worker": lambda case=case: ours(*case, 1, 1),
            "two workers": lambda case=case: ours(*case, 2, 1),
            "two threads": lambda case=case: ours(*case, 1, 2),
            "one bare loop": lambda case=case: bare(*case, 1),
            "two bare loops": lambda case=case: bare(*case, 2),
        }
        if not with_threads:
            del sides["two threads"]
        found = in_turn(sides, repeats, warm_up=False)  # each measurement is a process of its own
        rates = json.dumps({name: round(statistics.median(values)) for name, values in found.items()})
        for name, above, below in (
            ("two workers ÷ one", "two workers", "one worker"),
            ("two threads ÷ one", "two threads", "one worker"),
            ("two bare loops without communication ÷ one", "two bare loops", "one bare loop"),
        ):
            if above not in found:
                continue
            median, low, high = ratio(found[above], found[below])
            show(f"{model}, batch {batch}: {name}", "–", median, range=[round(low, 2), round(high, 2)])
        print(rates, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", action="store_true", help="also one worker with two threads")
    given = parser.parse_args()
    main(given.repeats, given.threads)
