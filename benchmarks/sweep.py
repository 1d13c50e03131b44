"""Compare the time of a sweep with a bare loop that trains exactly its trials: `python benchmarks/sweep.py`.

The bare loop is the shortest one, with one thread and with the same data in memory, batch, LR, seed, steps (fewer in a
pruned trial), evaluations and test. As many processes as there are cores share the trials. A diverged run logged no
steps after its last evaluation, so the bare loop continues until its loss has diverged too, for at most one epoch. The
bare time is the sum over the processes, divided by the cores.

Only the search counts, from the first trial to the last, as the sweep prints it. `main_job.py` measures the main job.

    python benchmarks/sweep.py            # a part of experiment=fashion_mnist
    python benchmarks/sweep.py --whole    # the whole search of experiment=fashion_mnist: a quarter of an hour
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from interleaved import clean_environment, show

from lr_study import available_cores

# Without confirmation, which comes after the search, and without noise scales, which the bare loop doesn't measure.
SEARCH_ALONE = [
    "experiment=fashion_mnist",
    "seed=0,1,2",
    "dataset.split_seed=0",
    "report.confirm.looks=[]",
    "noise_scale.epochs=[]",
]
JOBS = {
    "fashion_mnist": [*SEARCH_ALONE, "batch=32,256,2048", "hydra.sweeper.n_trials=6", "budget.epochs=2"],
    "fashion_mnist whole": SEARCH_ALONE,
}
# When a run has diverged, as `pipeline.engine` has it: at ten times the best guess's loss, checked 20 times an epoch.
WINDOWS, TOO_HIGH = 20, 10.0


def search(job: str, folder: Path) -> dict[str, float]:
    """Run the sweep; return the seconds of the whole command, of the search, and of all trials with confirmation."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.train", *JOBS[job], "-m"],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    total = time.perf_counter() - started
    found = re.findall(r"(\d+)/\1 trials(?:, \d+ failed)?, (\d+) s", done.stderr)
    assert found, done.stderr[-2000:]
    (_, searched), (trials, trained) = found[0], found[-1]
    return {"trials": int(trials), "search": float(searched), "all trials": float(trained), "command": total}


def trials_of(folder: Path) -> list[dict]:
    """Return what each trial of the sweep did."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    runs = client.search_runs(
        [client.get_experiment_by_name("lr-batch").experiment_id], "tags.pipeline = 'trial'", max_results=5000
    )
    return [
        {
            "batch": int(run.data.params["batch"]),
            "lr": float(run.data.params["optimizer.lr"]),
            "seed": int(run.data.params["seed"]),
            "steps": int(run.data.metrics.get("optimizer_steps", 0)),
            "tested": "test/loss" in run.data.metrics,
            "diverged": run.data.tags.get("status") == "diverged",
            "evaluations": len(client.get_metric_history(run.info.run_id, "val/loss")),
        }
        for run in runs
    ]


def train_bare(dataset: str, trials: list[dict]) -> float:
    """Return the seconds that the shortest loop takes for `trials`, without imports and loading the data."""
    import torch
    from hydra import compose, initialize_config_dir

    from pipeline.config import conf_dir, register, resolve
    from pipeline.models import MLP
    from pipeline.run.workload import build_workload

    torch.set_num_threads(1)
    # The first optimizer of a process imports torch's compiler, which takes a second or two.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = resolve(compose("config", [f"dataset={dataset}"]))
    splits = build_workload(config, in_sweep=True).splits
    started = time.perf_counter()
    for trial in trials:
        torch.manual_seed(trial["seed"])
        train_one(MLP(config.dataset["shape"], 10, config.model["hidden"]), splits, trial)
    return time.perf_counter() - started


def train_one(model, splits, trial: dict) -> None:
    """Take a trial's steps, evaluations and test."""
    import torch
    import torch.nn.functional as F

    optimizer = torch.optim.SGD(model.parameters(), lr=trial["lr"], momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, trial["steps"]))
    count, steps, batch = len(splits.train), trial["steps"], trial["batch"]

    def step(where):
        loss = F.cross_entropy(model(splits.train.images[where]), splits.train.labels[where])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    order = torch.cat([torch.randperm(count) for _ in range(-(-steps * batch // count))] or [torch.empty(0).long()])
    every = max(1, steps // max(1, trial["evaluations"]))
    for number, where in enumerate(order[: steps * batch].split(batch) if steps else [], start=1):
        step(where)
        schedule.step()
        if number % every == 0:
            measure(model, splits.val)
    if trial["diverged"]:
        window = max(1, round(count / batch / WINDOWS))
        for number, where in enumerate(torch.randperm(count).split(batch)):
            loss = step(where)
            if number % window == 0 and not loss.item() <= TOO_HIGH * splits.guess_loss:
                break
    if trial["tested"]:
        measure(model, splits.test)


def measure(model, split) -> tuple[float, float]:
    """Return mean loss and error, computed by the shortest loop."""
    import torch
    import torch.nn.functional as F

    wrong = loss = 0.0
    with torch.inference_mode():
        for start in range(0, len(split), 1024):
            images, labels = split.images[start : start + 1024], split.labels[start : start + 1024]
            logits = model(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            wrong += (logits.argmax(1) != labels).sum().item()
    return loss / len(split), wrong / len(split)


def bare(dataset: str, trials: list[dict]) -> float:
    """Train `trials` with the bare loop on all cores; return the seconds, divided by the cores."""
    cores = available_cores()
    # Longest first, given to the processes in turn, so that each has about the same work.
    ordered = sorted(trials, key=lambda trial: -trial["steps"] * (trial["batch"] + 500))
    shares = [ordered[start::cores] for start in range(cores)]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--bare", dataset], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in shares
    ]
    for process, share in zip(processes, shares, strict=True):
        process.stdin.write(json.dumps(share))
        process.stdin.close()
    return sum(float(process.stdout.read().splitlines()[-1]) for process in processes) / cores


def main(jobs: list[str], repeats: int) -> None:
    """Measure and print."""
    for job in jobs:
        rounds = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                ours = search(job, Path(folder))
                trials = trials_of(Path(folder))
            rounds.append(ours | {"bare": bare(job.split()[0], trials)})
        rounds.sort(key=lambda found: found["search"] / found["bare"])
        found = rounds[len(rounds) // 2]
        parts = {key: round(value, 1) for key, value in found.items()}
        parts["start and report"] = round(found["command"] - found["all trials"], 1)
        show(f"search of {job} ÷ (bare loop ÷ cores)", "≤ 1.3", found["search"] / found["bare"], **parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="the whole search of experiment=fashion_mnist")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        print(train_bare(given.bare, json.load(sys.stdin)))
    else:
        main(["fashion_mnist whole"] if given.whole else ["fashion_mnist"], given.repeats)
