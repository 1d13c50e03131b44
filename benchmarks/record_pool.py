"""Record a pool of real runs: every batch size × LRs half an octave apart × 200 seeds, one validation split a seed.

`benchmarks/pool.py` draws studies from it, without training, to count how often verdicts and intervals are right.

    python benchmarks/record_pool.py linear_rule     # the digits, about ten minutes on two cores

The result is `benchmarks/pool/NAME.csv.gz`, a table that `python -m pipeline.report --table` reads, too.
"""

import argparse
import csv
import gzip
import itertools
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from lr_study import available_cores
from pipeline.config import Config, conf_dir, register, resolve

FOLDER = Path(__file__).parent / "pool"
SEEDS = 200
# LRs in each octave, and octaves below and above the linear rule's LR.
LRS_PER_OCTAVE, REACH = 2, 3.5
COLUMNS = ("batch", "lr", "seed", "status", "value", "train_loss", "error", "test_loss")
METRICS = {"value": "val/loss", "train_loss": "train/loss", "error": "val/error", "test_loss": "test/loss"}


def lrs_around(rule_lr: float) -> list[float]:
    """Return the LRs of one batch size, on a grid that all batch sizes share."""
    count = round(REACH * LRS_PER_OCTAVE)
    return [rule_lr * 2 ** (step / LRS_PER_OCTAVE) for step in range(-count, count + 1)]


def record(config: Config) -> list[dict[str, Any]]:
    """Train all seeds at one batch size and LR; return a row for each."""
    from pipeline.run.replicates import stack_size, train_replicates
    from pipeline.run.workload import build_workload

    workload = build_workload(config, in_sweep=True)
    size = stack_size(config, workload, in_sweep=True)
    found = train_replicates(config, workload, size, lambda step: None, lambda evaluations: False)
    rows = []
    for seed, result in found.by_seed.items():
        last = result.evaluations[-1].metrics if result.evaluations else {}
        values = {column: f"{last[metric]:.5g}" for column, metric in METRICS.items() if metric in last}
        own = {"batch": config.batch, "lr": f"{config.optimizer['lr']:.6g}", "seed": seed, "status": result.status}
        rows.append(own | values)
    return rows


def tasks(experiment: str) -> Iterator[Config]:
    """Yield the configuration of each batch size and LR."""
    register()
    overrides = [f"experiment={experiment}", f"seed=0-{SEEDS - 1}", "noise_scale.epochs=[]"]
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        cfg = compose("config", overrides, return_hydra_config=True)
        for batch in str(cfg.hydra.sweeper.params.batch).split(","):
            config = resolve(compose("config", [*overrides, f"batch={batch}"]))
            for lr in lrs_around(config.optimizer["lr"]):
                yield replace(config, optimizer=config.optimizer | {"lr": lr})


def main() -> None:
    """Record the pool of one experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--processes", type=int, default=available_cores())
    options = parser.parse_args()
    todo = list(tasks(options.experiment))
    started = time.monotonic()
    # Spawned, since a forked process would share torch's threads.
    with multiprocessing.get_context("spawn").Pool(options.processes) as processes:
        rows = list(itertools.chain(*processes.imap(record, todo, chunksize=1)))
    FOLDER.mkdir(exist_ok=True)
    with gzip.open(FOLDER / f"{options.experiment}.csv.gz", "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} runs in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
