"""Compare this project with Lightning and Optuna's sweeper for Hydra (the peers), as a part of `make bench`.

    python benchmarks/peers/compare.py PEERS_PYTHON
    python benchmarks/peers/compare.py PEERS_PYTHON --only sweep --sweeps 5    # a quarter of an hour

There are two comparisons. One is an epoch of the mlp on Fashion-MNIST at batch 64, with validation. The other is a
sweep on the digits with the main job's network: five epochs at seven batch sizes, each LR of a geometric grid, and
twelve seeds. Both sides train the same runs, which is checked afterwards, ours with the seeds of an LR at once; no run
diverges, because ours would end it early. Whole commands
are timed from start to exit. Ours is also timed to the end of its last trial, since the peers make no report. The
peers' sweeper runs trials one by one, or two at the same time with joblib. A small sweep finds the faster way.
"""

import argparse
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
APP = str(HERE / "lightning_app.py")
sys.path.insert(0, str(HERE.parent))

from interleaved import clean_environment, in_turn, ratio, show  # noqa: E402

OUR_EPOCH = """
import time
from hydra import compose, initialize_config_dir
from pipeline.config import conf_dir, register, resolve
register()
with initialize_config_dir(conf_dir(), version_base="1.3"):
    config = resolve(compose("config", ["dataset=fashion_mnist", "batch=64", "budget.epochs=1", "optimizer.lr=0.05"]))
from pipeline.engine import fit
from pipeline.run.workload import build_workload
w = build_workload(config, in_sweep=False)
started = time.perf_counter()
fit(w.model, w.optimizer, w.splits, w.plan, w.schedule, batch=64, seed=0, precision=w.runtime.precision)
print(time.perf_counter() - started)
"""
BATCHES = (4, 8, 16, 32, 64, 128, 256)
LOWEST, HIGHEST = 0.002, 0.064
SEEDS = 12
# The peers' ways to run a sweep.
WAYS = {
    "one by one": ("hydra.sweeper.n_jobs=1",),
    "two at once": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2"),
}


def printed(*command: str) -> float:
    """Return the number that a command prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment())
    return float(done.stdout.split()[-1])


def seconds(*command: str, folder: str, until: str = "") -> tuple[float, float]:
    """Return how long a command in `folder` takes until it prints a line with `until` on stderr, and to its exit."""
    started = time.perf_counter()
    lines, reached = [], 0.0
    with open(f"{folder}/stdout", "w", encoding="utf-8") as stdout:
        process = subprocess.Popen(
            command, cwd=folder, env=clean_environment(), stdout=stdout, stderr=subprocess.PIPE, text=True
        )
        for line in process.stderr:
            lines.append(line)
            if until and until in line:
                reached = time.perf_counter() - started
    assert process.wait() == 0, "".join(lines)[-3000:]
    return reached, time.perf_counter() - started


def epoch(peers: str, repeats: int) -> None:
    """Compare an epoch."""
    from pipeline.data.torchvision_images import DEBIAN_FASHION_MNIST

    with tempfile.TemporaryDirectory() as root:
        raw = Path(root) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for file in DEBIAN_FASHION_MNIST.iterdir():
            (raw / file.name).symlink_to(file)
        subprocess.run(["sh", "-c", f"cd {raw} && for f in *.gz; do gunzip -c $f > ${{f%.gz}}; done"], check=True)
        found = in_turn(
            {
                "ours": lambda: printed(sys.executable, "-c", OUR_EPOCH),
                "lightning": lambda: printed(peers, APP, "epoch", root),
            },
            repeats,
            warm_up=False,
        )
    median, low, high = ratio(found["lightning"], found["ours"])
    medians = {name: round(statistics.median(values), 2) for name, values in found.items()}
    show(
        "an epoch of mlp on Fashion-MNIST at batch 64: times as fast as Lightning",
        "≥ 6",
        median,
        range=[round(low, 1), round(high, 1)],
        seconds=medians,
    )


def our_sweep(lrs: int) -> tuple[float, float, list[tuple[int, float, int]]]:
    """Run our sweep; return the seconds to its last trial's end, those in all, and the runs as (batch, LR, seed)."""
    command = ["-m", "pipeline.train", "-m", f"batch={','.join(map(str, BATCHES))}", f"seed=0-{SEEDS - 1}"]
    command += ["budget.epochs=5", "model.hidden=[64]"]
    command += [f"optimizer.lr=tag(log, interval({LOWEST}, {HIGHEST}))", f"hydra.sweeper.n_trials={lrs}"]
    command += ["hydra/sweeper/sampler=grid", f"hydra.sweeper.sampler.points={lrs}", "hydra/sweeper/pruner=none"]
    command += ["hydra.sweeper.widenings=0", "report.confirm.looks=[]"]
    # The sweeper tries the configured LR first, so this is the grid's first LR at every batch size.
    command += ["scaling=fixed", f"optimizer.base_lr={LOWEST}"]
    with tempfile.TemporaryDirectory() as folder:
        trials = len(BATCHES) * lrs
        trained, spent = seconds(sys.executable, *command, folder=folder, until=f"{trials}/{trials} trials")
        return trained, spent, trials_in(f"{folder}/mlruns/mlflow.db", "batch", "optimizer.lr")


def peers_sweep(peers: str, lrs: int, way: str) -> tuple[float, list[tuple[int, float, int]]]:
    """Run the peers' sweep, which makes no report; return its seconds and runs."""
    choices = ",".join(f"{LOWEST * (HIGHEST / LOWEST) ** (i / (lrs - 1)):.12g}" for i in range(lrs))
    command = [APP, "sweep", "--multirun", "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", *WAYS[way]]
    command += [f"hydra.sweeper.n_trials={len(BATCHES) * lrs * SEEDS}", "hydra.sweeper.direction=minimize"]
    command += [f"batch=choice({','.join(map(str, BATCHES))})", f"lr=choice({choices})"]
    command += [f"seed=choice({','.join(map(str, range(SEEDS)))})"]
    with tempfile.TemporaryDirectory() as folder:
        _, spent = seconds(peers, *command, folder=folder)
        return spent, trials_in(f"{folder}/mlflow.db", "batch", "lr")


def trials_in(database: str, batch: str, lr: str) -> list[tuple[int, float, int]]:
    """Return the sorted (batch, LR, seed) of all training runs in an MLflow database."""
    connection = sqlite3.connect(database)
    rows = connection.execute(
        "SELECT b.value, l.value, s.value FROM params b JOIN params l USING (run_uuid) JOIN params s USING (run_uuid)"
        " WHERE b.key = ? AND l.key = ? AND s.key = 'seed'",
        (batch, lr),
    ).fetchall()
    connection.close()
    runs = []
    for size, value, seeds in rows:
        first, _, last = seeds.partition("-")
        runs += [(int(size), float(f"{float(value):.6g}"), seed) for seed in range(int(first), int(last or first) + 1)]
    return sorted(runs)


def sweep(peers: str, repeats: int, lrs: int, way: str | None) -> None:
    """Compare a sweep."""
    small = {} if way else {way: peers_sweep(peers, 2, way)[0] for way in WAYS}
    way = way or min(small, key=small.get)
    trained, ours, theirs = [], [], []
    for _ in range(repeats):
        (to_the_last, in_all, our_trials), (their_seconds, their_trials) = our_sweep(lrs), peers_sweep(peers, lrs, way)
        assert our_trials == their_trials, (our_trials, their_trials)
        trained.append(to_the_last)
        ours.append(in_all)
        theirs.append(their_seconds)
    what = f"a sweep of {len(BATCHES) * lrs * SEEDS} runs on digits: times as fast as the peers' stack, {way}"
    for counted, spent in (("without our report", trained), ("with our report", ours)):
        median, low, high = ratio(theirs, spent)
        show(
            f"{what}, {counted}",
            "≥ 15",
            median,
            range=[round(low, 1), round(high, 1)],
            seconds=[[round(value, 1) for value in found] for found in zip(spent, theirs, strict=True)],
            **{f"{2 * len(BATCHES) * SEEDS} runs {name}": round(spent, 1) for name, spent in small.items()},
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", help="Python of the peers' environment")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("epoch", "sweep"), help="only this comparison")
    parser.add_argument("--sweeps", type=int, default=1, help="repeats of the sweep, which takes minutes")
    parser.add_argument("--lrs", type=int, default=2, help="LRs at each batch size, with twelve seeds each")
    parser.add_argument("--way", choices=WAYS, help="how the peers' trials run (default: the faster way)")
    given = parser.parse_args()
    python = str(Path(given.peers).absolute())
    if given.only in (None, "epoch"):
        epoch(python, given.repeats)
    if given.only in (None, "sweep"):
        sweep(python, given.sweeps, given.lrs, given.way)
