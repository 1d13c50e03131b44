"""A bank of recorded runs: every batch size × half-octave LRs × 16 seeds, each with its whole curve.

Samplers and pruners are compared by replaying them on it (`benchmarks/replay.py`): that costs no training, and
what a trial returns is a real run, with its real noise.

    python benchmarks/bank.py linear_rule       # the digits, about ten minutes on two cores
    python benchmarks/bank.py fashion_mnist     # about an hour

Recording can be broken off and goes on where it was; the result is `benchmarks/bank/NAME.npz`.
"""

import argparse
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "bank"
SEEDS = 16
# LRs from this many octaves below the rule's to as many above, half an octave apart: what a sweep searches.
HALF_OCTAVES = 2
STATUSES = ("complete", "diverged", "stalled")
METRICS = ("val/loss", "val/error", "train/loss")


@dataclass(frozen=True)
class BankCell:
    """The recorded runs of one batch size.

    Attributes:
        batch: examples in one optimizer step.
        rule_lr: the linear rule's LR.
        lrs: [L] in rising order.
        status: [L, S] of each run, as in `STATUSES`.
        curves: metric to [L, S, E], one number an evaluation; NaN where a run had diverged.
        guess_loss: mean loss of the best constant guess, in nats.
    """

    batch: int
    rule_lr: float
    lrs: np.ndarray
    status: np.ndarray
    curves: dict[str, np.ndarray]
    guess_loss: float


def load(name: str) -> list[BankCell]:
    """The cells of a bank, by batch size."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        data = {key: file[key] for key in file.files}
    cells = []
    for index, batch in enumerate(data["batch"]):
        curves = {metric: data[metric.replace("/", "_")][index].astype(float) for metric in METRICS}
        status = np.array(STATUSES)[data["status"][index]]
        cells.append(
            BankCell(
                int(batch), float(data["rule_lr"][index]), data["lrs"][index], status, curves, float(data["guess"])
            )
        )
    return cells


def record(name: str, only: list[int] | None = None) -> None:
    """Train what is missing from the bank `name` (of the batch sizes `only`, where given) and pack it."""
    FOLDER.mkdir(exist_ok=True)
    partial = FOLDER / f"{name}.jsonl"
    done = {tuple(row["key"]) for row in _rows(partial)}
    configs = {batch: config for batch, config in _configs(name).items() if only is None or batch in only}
    # One task is one batch size and seed: the data set stays in its process, and the longest go first.
    tasks = [(configs[batch], seed, done) for seed, batch in itertools.product(range(SEEDS), sorted(configs))]
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count()) as pool, open(partial, "a") as file:
        for count, rows in enumerate(pool.imap_unordered(_train_all, tasks), start=1):
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            print(f"{count}/{len(tasks)}", flush=True)
    _pack(name, [row for row in _rows(partial) if row["key"][0] in configs], configs)


def _configs(name: str) -> dict[int, dict[str, Any]]:
    """The resolved configuration of each batch size of an experiment."""
    from hydra import compose, initialize_config_dir

    from pipeline import config

    config.register()
    with initialize_config_dir(config.conf_dir(), version_base="1.3"):
        node = compose("config", [f"experiment={name}"], return_hydra_config=True)
        batches = [int(batch) for batch in str(node.hydra.sweeper.params.batch).split(",")]
        return {batch: config.resolve(compose("config", [f"experiment={name}", f"batch={batch}"])) for batch in batches}


def _lrs(config: dict[str, Any]) -> list[float]:
    steps = round(config["search"]["octaves"] * HALF_OCTAVES)
    return [config["optimizer"]["lr"] * 2 ** (k / HALF_OCTAVES) for k in range(-steps, steps + 1)]


def _train_all(task: tuple[dict[str, Any], int, set[Any]]) -> list[dict[str, Any]]:
    """Train one batch size and seed at every LR that is missing."""
    config, seed, done = task
    lrs = _lrs(config)
    return [
        _train(config, seed, lr, index) for index, lr in enumerate(lrs) if (config["batch"], seed, index) not in done
    ]


def _train(config: dict[str, Any], seed: int, lr: float, index: int) -> dict[str, Any]:
    import torch

    from pipeline.engine import fit
    from pipeline.run.workload import build_workload

    torch.set_num_threads(1)
    config = {**config, "seed": seed, "optimizer": {**config["optimizer"], "lr": lr}}
    workload = build_workload(config, in_sweep=True)
    result = fit(
        *(workload.model, workload.optimizer, workload.splits, workload.plan, workload.schedule),
        batch=config["batch"],
        seed=seed,
    )
    return {
        "key": [config["batch"], seed, index],
        "status": result.status,
        "evaluations": len(workload.plan.evaluation_steps),
        "guess": workload.splits.guess_loss,
        "curves": {metric: [e.metrics[metric] for e in result.evaluations] for metric in METRICS},
    }


def _rows(partial: Path) -> Iterator[dict[str, Any]]:
    if partial.exists():
        with open(partial) as file:
            yield from map(json.loads, file)


def _pack(name: str, rows: list[dict[str, Any]], configs: dict[int, dict[str, Any]]) -> None:
    batches = sorted(configs)
    lrs = np.array([_lrs(configs[batch]) for batch in batches])
    shape = (len(batches), lrs.shape[1], SEEDS)
    status = np.zeros(shape, np.uint8)
    curves = {metric: np.full((*shape, rows[0]["evaluations"]), np.nan, np.float32) for metric in METRICS}
    for row in rows:
        batch, seed, index = row["key"]
        place = (batches.index(batch), index, seed)
        status[place] = STATUSES.index(row["status"])
        for metric in METRICS:
            values = row["curves"][metric]
            curves[metric][place][: len(values)] = values
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        batch=np.array(batches),
        rule_lr=np.array([configs[batch]["optimizer"]["lr"] for batch in batches]),
        lrs=lrs,
        status=status,
        guess=np.array(rows[0]["guess"]),
        **{metric.replace("/", "_"): values for metric, values in curves.items()},
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("experiment", choices=["linear_rule", "fashion_mnist"])
    arguments.add_argument("--batches", type=int, nargs="+")
    given = arguments.parse_args()
    record(given.experiment, given.batches)
