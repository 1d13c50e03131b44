"""Compare samplers and pruners by replaying studies on the bank of recorded runs (`benchmarks/bank.py`).

    python benchmarks/replay.py samplers            # which one finds the best LR with 24 trials?
    python benchmarks/replay.py pruners             # what does pruning save, and what does it cost?

A replay draws three of the sixteen seeds. It takes the recorded LR that is nearest to what the sampler proposes,
because interpolation would hide the noise. The estimate of the best LR is the report's; it is compared with the
report's fit to all sixteen seeds.
"""

import argparse
import json
import logging
import math
import multiprocessing
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import optuna
from bank import BankCell, load
from optuna.trial import TrialState

from lr_study import available_cores
from lr_study.build import make_pruner, make_sampler
from pipeline.analysis.runs import Run, mark_stalled
from pipeline.analysis.stats.curve import Curve, fit_curve

TRIALS, SEEDS = 24, 3
# A replay is good if its error is at most this many octaves, or half the width of the full grid's interval, and if the
# loss at its LR is at most this share worse than the best loss. The goal is 95 % good replays.
OCTAVES, WORSE = 0.25, 0.05
KEY = "optimizer.lr"
SAMPLERS: dict[str, dict[str, Any]] = {
    "spread": {"_target_": "pipeline.search.SpreadSampler"},
    "random": {"_target_": "optuna.samplers.RandomSampler"},
    "qmc": {"_target_": "optuna.samplers.QMCSampler", "warn_independent_sampling": False},
    "tpe": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3, "constant_liar": True},
    "gp": {"_target_": "optuna.samplers.GPSampler", "n_startup_trials": 3},
}
# Not samplers: the best that these seeds and this number of trials allow.
REFERENCES = ("full grid", "oracle")
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"_target_": "optuna.pruners.NopPruner"},
    "far": {"_target_": "pipeline.search.FarPruner"},
    "far, 2 octaves": {"_target_": "pipeline.search.FarPruner", "octaves": 2.0},
    "median": {"_target_": "optuna.pruners.MedianPruner"},
    "hyperband": {"_target_": "optuna.pruners.HyperbandPruner"},
    "successive_halving": {"_target_": "optuna.pruners.SuccessiveHalvingPruner"},
}


@dataclass(frozen=True)
class Truth:
    """The fit to all sixteen seeds at all LRs of a batch size: log2 of the best LR, and the loss curve."""

    octave: float
    curve: Curve

    def worse(self, octave: float) -> float:
        """Return by which share the loss at an LR is worse than the best loss."""
        mean = self.curve.draws.mean(axis=0)
        return float(np.exp(np.interp(octave, self.curve.octaves, mean) - mean.min()) - 1)


def runs_of(cell: BankCell, seeds: Sequence[int]) -> list[Run]:
    """Return the runs of some seeds at all LRs."""
    return [run_of(cell, index, seed) for index in range(len(cell.lrs)) for seed in seeds]


def run_of(cell: BankCell, index: int, seed: int) -> Run:
    """Return one recorded run."""
    value, train = (float(cell.curves[metric][index, seed, -1]) for metric in ("val/loss", "train/loss"))
    status = str(cell.status[index, seed])
    return Run(cell.batch, float(cell.lrs[index]), value, seed, status, train_loss=train)


def fit(runs: Sequence[Run], guess_loss: float) -> Curve | None:
    """Fit the report's loss curve to the runs of a batch size."""
    marked = mark_stalled(runs, guess_loss)
    failing = min((run.lr for run in marked if run.failed), default=math.inf)
    return fit_curve([run for run in marked if run.usable and run.lr < failing], np.random.default_rng(0))


@cache
def truth(bank: str, batch: int) -> Truth:
    """Return the fit to all seeds."""
    cell = cells(bank)[batch]
    curve = fit(runs_of(cell, range(cell.status.shape[1])), cell.guess_loss)
    assert curve is not None
    return Truth(float(np.median(curve.argmins())), curve)


@cache
def cells(bank: str) -> dict[int, BankCell]:
    """Return a bank's cells by batch size."""
    return {cell.batch: cell for cell in load(bank)}


def reference(bank: str, cell: BankCell, seeds: Sequence[int], kind: str) -> list[Run]:
    """Return the runs of a reference: the full grid of the drawn seeds, or 24 runs around the true best LR (oracle)."""
    if kind == "full grid":
        return runs_of(cell, seeds)
    distance = abs(np.log2(cell.lrs) - truth(bank, cell.batch).octave)
    nearest = sorted(np.argsort(distance)[: TRIALS // SEEDS])
    return [run_of(cell, int(index), seed) for index in nearest for seed in seeds]


def search(cell: BankCell, seeds: Sequence[int], sampler: str, pruner: str, number: int) -> tuple[list[Run], float]:
    """Replay a study of 24 trials; return its runs, and the share of the epochs that were trained."""
    study = optuna.create_study(pruner=make_pruner(PRUNERS[pruner]))
    name = f"{sampler}/{cell.batch}/{number}"
    space = {KEY: optuna.distributions.FloatDistribution(float(cell.lrs[0]), float(cell.lrs[-1]), log=True)}
    octaves = np.log2(cell.lrs)
    runs, epochs = [], 0
    for slot in range(TRIALS):
        seed = seeds[slot % SEEDS]
        study.enqueue_trial({KEY: cell.rule_lr} if slot == 0 else {}, user_attrs={"replicate": str(seed)})
        study.sampler = make_sampler(SAMPLERS[sampler], 0, name, slot, SEEDS)
        trial = study.ask(space)
        index = int(np.argmin(abs(octaves - math.log2(trial.params[KEY]))))
        lr = float(np.clip(cell.lrs[index], cell.lrs[0], cell.lrs[-1]))
        study._storage.set_trial_param(trial._trial_id, KEY, lr, space[KEY])
        trial = optuna.Trial(study, trial._trial_id)
        run = run_of(cell, index, seed)
        curve = cell.curves["val/loss"][index, seed]
        trial.set_user_attr("wave", [slot])
        trial.set_user_attr("last_step", len(curve))
        pruned = False
        if run.status != "diverged":
            for step, value in enumerate(curve, start=1):
                trial.report(float(value), step)
                epochs += 1
                if step < len(curve) and trial.should_prune():
                    pruned = True
                    break
        else:
            epochs += int(np.isfinite(curve).sum()) + 1
        trial.set_user_attr("status", "pruned" if pruned else run.status)
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
            runs.append(replace(run, status="pruned"))
        else:
            bound = 10 * cell.guess_loss
            study.tell(trial, min(run.value, bound) if math.isfinite(run.value) else bound)
            runs.append(run)
    return runs, epochs / (TRIALS * cell.curves["val/loss"].shape[-1])


def replay(bank: str, sampler: str, pruner: str, task: tuple[int, int]) -> dict[str, Any]:
    """Replay one study; return the error of its estimate in octaves, the allowed error, and more."""
    batch, number = task
    cell = cells(bank)[batch]
    rng = np.random.default_rng(zlib.crc32(f"{batch}/{number}".encode()))
    seeds = [int(seed) for seed in rng.choice(cell.status.shape[1], SEEDS, replace=False)]
    true = truth(bank, batch)
    grid = fit(runs_of(cell, seeds), cell.guess_loss)
    half = np.inf if grid is None else float(np.subtract(*np.quantile(grid.argmins(), (0.975, 0.025)))) / 2
    if sampler in REFERENCES:
        runs, used = reference(bank, cell, seeds, sampler), math.nan
    else:
        runs, used = search(cell, seeds, sampler, pruner, number)
    curve = fit(runs, cell.guess_loss)
    result: dict[str, Any] = {"batch": batch, "used": used, "allowed": max(OCTAVES, half)}
    if curve is None or curve.censored():
        return result | {"error": None, "worse": None, "width": None, "bias": None, "good": False}
    low, octave, high = (float(q) for q in np.quantile(curve.argmins(), (0.025, 0.5, 0.975)))
    error, worse = abs(octave - true.octave), true.worse(octave)
    good = error <= result["allowed"] and worse <= WORSE
    return result | {"error": error, "worse": worse, "width": high - low, "bias": octave - true.octave, "good": good}


def _quiet() -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.WARNING)


def run_all(bank: str, sampler: str, pruner: str, replays: int, pool: Any) -> list[dict[str, Any]]:
    """Run all replays of a sampler and pruner on a bank."""
    tasks = [(batch, number) for number in range(replays) for batch in cells(bank)]
    return list(pool.imap_unordered(partial(replay, bank, sampler, pruner), tasks, chunksize=4))


def _summary(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    estimated = [r for r in results if r["error"] is not None]

    def quantile(key: str, q: float) -> float:
        return float(np.quantile([r[key] for r in estimated], q)) if estimated else math.nan

    return {
        "good": float(np.mean([r["good"] for r in results])),
        "error ok": float(np.mean([r["error"] is not None and r["error"] <= r["allowed"] for r in results])),
        "loss ok": float(np.mean([r["worse"] is not None and r["worse"] <= WORSE for r in results])),
        "no estimate": 1 - len(estimated) / len(results),
        "error 50 %": quantile("error", 0.5),
        "error 95 %": quantile("error", 0.95),
        "allowed 50 %": float(np.median([r["allowed"] for r in results])),
        "worse 95 %": quantile("worse", 0.95),
        "width 50 %": quantile("width", 0.5),
        "bias": float(np.mean([r["bias"] for r in estimated])) if estimated else math.nan,
        "saved": 1 - float(np.mean([r["used"] for r in results])),
    }


def main() -> None:
    """Print a line of JSON for each bank and each sampler or pruner."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("what", choices=["samplers", "pruners"])
    arguments.add_argument("--banks", nargs="+", default=["linear_rule", "fashion_mnist"])
    arguments.add_argument("--only", nargs="+", help="only these samplers or pruners")
    arguments.add_argument("--sampler", default="spread", help="sampler that the pruners are compared with")
    arguments.add_argument("--replays", type=int, default=60, help="replays of each batch size")
    arguments.add_argument("--by-batch", action="store_true", help="also print each batch size")
    given = arguments.parse_args()
    choices = list([*SAMPLERS, *REFERENCES] if given.what == "samplers" else PRUNERS)
    with multiprocessing.get_context("spawn").Pool(available_cores(), initializer=_quiet) as pool:
        for bank in given.banks:
            for choice in given.only or choices:
                sampler, pruner = (choice, "none") if given.what == "samplers" else (given.sampler, choice)
                results = run_all(bank, sampler, pruner, given.replays, pool)
                print(json.dumps({"bank": bank, given.what: choice, "replays": len(results), **_rounded(results)}))
                if given.by_batch:
                    for batch in cells(bank):
                        print(f"  {batch:5d}", _rounded([r for r in results if r["batch"] == batch]), flush=True)


def _rounded(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in _summary(results).items()}


if __name__ == "__main__":
    main()
