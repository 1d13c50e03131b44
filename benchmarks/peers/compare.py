"""This project beside Lightning and Optuna's sweeper for Hydra: `make bench-peers`, or

    python benchmarks/peers/compare.py PEERS_PYTHON

One epoch of the mlp on Fashion-MNIST at batch 64, with validation; and the main job's grid on the digits: five epochs
at each of its seven batch sizes times so many LRs, whole commands from start to exit, ours with its report, on all
cores. The sides take turns.
"""

import argparse
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
from pipeline.workload import prepare
w = prepare(config, one_of_many=False)
started = time.perf_counter()
fit(w.model, w.optimizer, w.splits, w.plan, w.schedule, batch=64, seed=0, precision=w.runtime.precision)
print(time.perf_counter() - started)
"""
BATCHES = (4, 8, 16, 32, 64, 128, 256)


def printed(*command: str) -> float:
    """The number that a command prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment())
    return float(done.stdout.split()[-1])


def seconds(*command: str) -> float:
    """How long a command takes, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return time.perf_counter() - started


def epoch(peers: str, repeats: int) -> None:
    """One epoch."""
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


def sweep(peers: str, repeats: int, lrs: int) -> None:
    """A sweep."""
    batches, trials = ",".join(map(str, BATCHES)), len(BATCHES) * lrs
    ours = [sys.executable, "-m", "pipeline.train", "-m", f"batch={batches}", "seed=0", "budget.epochs=5"]
    ours += [f"hydra.sweeper.n_trials={lrs}", "hydra/sweeper/sampler=grid", f"hydra.sweeper.sampler.points={lrs}"]
    ours += ["hydra/sweeper/pruner=none", "report.confirm_seeds=0", "hydra.sweeper.widenings=0", "search.octaves=2"]
    theirs = [peers, APP, "sweep", "--multirun", "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid"]
    theirs += [f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.direction=minimize"]
    choices = ",".join(f"{0.0125 * 64 ** (i / lrs):.5f}" for i in range(lrs))
    theirs += [f"batch=choice({batches})", f"lr=choice({choices})"]
    found = in_turn(
        {
            "ours": lambda: seconds(*ours),
            "one by one": lambda: seconds(*theirs, "hydra.sweeper.n_jobs=1"),
            "two at once": lambda: seconds(
                *theirs, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2"
            ),
        },
        repeats,
    )
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    for which in ("one by one", "two at once"):
        median, low, high = ratio(found[which], found["ours"])
        show(
            f"a sweep of {trials} trials on digits: times as fast as the peers' stack, {which}",
            "≥ 5",
            median,
            range=[round(low, 1), round(high, 1)],
            seconds=medians,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", help="the Python of the peers' environment")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("epoch", "sweep"), help="one of the two comparisons")
    parser.add_argument("--sweeps", type=int, default=1, help="repeats of the sweeps, which take minutes")
    parser.add_argument("--lrs", type=int, default=24, help="LRs at each batch size")
    given = parser.parse_args()
    python = str(Path(given.peers).absolute())
    if given.only in (None, "epoch"):
        epoch(python, given.repeats)
    if given.only in (None, "sweep"):
        sweep(python, given.sweeps, given.lrs)
