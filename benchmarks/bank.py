"""Record a bank of runs: every batch size × LRs half an octave apart × 16 seeds, with each run's whole curve.

`benchmarks/replay.py` compares samplers and pruners on it, without training: what a trial returns is a recorded
run, with the noise of real runs.

    python benchmarks/bank.py linear_rule       # the digits, about ten minutes on two cores
    python benchmarks/bank.py fashion_mnist     # about an hour

Run the same command again to resume an interrupted recording. The result is `benchmarks/bank/NAME.npz`.
"""

import argparse
import itertools
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lr_study import available_cores
from pipeline.config import Config

FOLDER = Path(__file__).parent / "bank"
SEEDS = 16
# LRs in each octave. The LRs cover what a sweep searches: search.octaves below and above the rule's LR.
LRS_PER_OCTAVE = 2
STATUSES = ("complete", "diverged", "stalled")
METRICS = ("val/loss", "val/error", "train/loss")


@dataclass(frozen=True)
class BankCell:
    """The recorded runs of one batch size.

    Attributes:
        batch: the batch size.
        rule_lr: the linear rule's LR.
        lrs: [L], ascending.
        status: [L, S], each run's, one of `STATUSES`.
        curves: metric to [L, S, E], a value for each evaluation; NaN after a run diverged.
        guess_loss: mean loss of the best constant guess, in nats.
    """

    batch: int
    rule_lr: float
    lrs: np.ndarray
    status: np.ndarray
    curves: dict[str, np.ndarray]
    guess_loss: float


def load(name: str) -> list[BankCell]:
    """Read the cells of a bank, in the order of their batch sizes."""
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
    """Train the runs that the bank `name` lacks, of all batch sizes or those of `only`, and write it."""
    FOLDER.mkdir(exist_ok=True)
    partial = FOLDER / f"{name}.jsonl"
    done = {tuple(row["key"]) for row in _rows(partial)}
    configs = {batch: config for batch, config in _configs(name).items() if only is None or batch in only}
    # A task is one batch size and seed, and a process keeps its data set. The smallest batch sizes, which take longest,
    # come first for each seed.
    tasks = [(configs[batch], seed, done) for seed, batch in itertools.product(range(SEEDS), sorted(configs))]
    context = multiprocessing.get_context("spawn")
    with context.Pool(available_cores()) as pool, open(partial, "a", encoding="utf-8") as file:
        for count, rows in enumerate(pool.imap_unordered(_train_all, tasks), start=1):
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            print(f"{count}/{len(tasks)}", flush=True)
    _pack(name, [row for row in _rows(partial) if row["key"][0] in configs], configs)


def _configs(name: str) -> dict[int, Config]:
    """Return the configuration of each batch size of an experiment."""
    from hydra import compose, initialize_config_dir

    from pipeline import config

    config.register()
    with initialize_config_dir(config.conf_dir(), version_base="1.3"):
        node = compose("config", [f"experiment={name}"], return_hydra_config=True)
        batches = [int(batch) for batch in str(node.hydra.sweeper.params.batch).split(",")]
        return {batch: config.resolve(compose("config", [f"experiment={name}", f"batch={batch}"])) for batch in batches}


def _lrs(config: Config) -> list[float]:
    steps = round(config.search.octaves * LRS_PER_OCTAVE)
    return [config.optimizer["lr"] * 2 ** (k / LRS_PER_OCTAVE) for k in range(-steps, steps + 1)]


def _train_all(task: tuple[Config, int, set[Any]]) -> list[dict[str, Any]]:
    """Train a batch size and seed at every LR that isn't `done`."""
    config, seed, done = task
    return [
        _train(config, seed, lr, index)
        for index, lr in enumerate(_lrs(config))
        if (config.batch, seed, index) not in done
    ]


def _train(config: Config, seed: int, lr: float, index: int) -> dict[str, Any]:
    import torch

    from pipeline.engine import fit
    from pipeline.run.workload import build_workload

    torch.set_num_threads(1)
    config = replace(config, seed=seed, optimizer=config.optimizer | {"lr": lr})
    workload = build_workload(config, in_sweep=True)
    result = fit(
        *(workload.model, workload.optimizer, workload.splits, workload.plan, workload.schedule),
        batch=config.batch,
        seed=seed,
    )
    return {
        "key": [config.batch, seed, index],
        "status": result.status,
        "evaluations": len(workload.plan.evaluation_steps),
        "guess": workload.splits.guess_loss,
        "curves": {metric: [e.metrics[metric] for e in result.evaluations] for metric in METRICS},
    }


def _rows(partial: Path) -> Iterator[dict[str, Any]]:
    if partial.exists():
        with open(partial, encoding="utf-8") as file:
            yield from map(json.loads, file)


def _pack(name: str, rows: list[dict[str, Any]], configs: dict[int, Config]) -> None:
    batches = sorted(configs)
    lrs = np.array([_lrs(configs[batch]) for batch in batches])
    shape = (len(batches), lrs.shape[1], SEEDS)
    status = np.zeros(shape, np.uint8)
    curves = {metric: np.full((*shape, rows[0]["evaluations"]), np.nan, np.float32) for metric in METRICS}
    for row in rows:
        batch, seed, index = row["key"]
        at = (batches.index(batch), index, seed)
        status[at] = STATUSES.index(row["status"])
        for metric in METRICS:
            values = row["curves"][metric]
            curves[metric][at][: len(values)] = values
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        batch=np.array(batches),
        rule_lr=np.array([configs[batch].optimizer["lr"] for batch in batches]),
        lrs=lrs,
        status=status,
        guess=np.array(rows[0]["guess"]),
        **{metric.replace("/", "_"): values for metric, values in curves.items()},
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("experiment", choices=["linear_rule", "fashion_mnist"])
    arguments.add_argument("--batches", type=int, nargs="+", help="only these batch sizes")
    given = arguments.parse_args()
    record(given.experiment, given.batches)
