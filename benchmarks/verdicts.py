"""Measure how often the verdicts are right, on simulated sweeps whose law is known: `python benchmarks/verdicts.py`.

The curvature of log loss doubles with each doubling of the batch. The margin equals the loss of an LR that is one
octave from the best at the base batch. As in a real sweep, this project's sampler chooses twelve LRs, twelve seeds run
at each, and fresh seeds confirm, look by look.
"""

import argparse
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from benchmarks.pool import LOOKS, SEARCH_SEEDS, finish, fit_each_search_once, search

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.results import Answer
from pipeline.analysis.stats.settings import AnalysisSettings, Margin

BATCHES = (8, 16, 32, 64, 128, 256, 512, 1024)
BASE, MARGIN = 64, 0.10
NOISE_SCALE = 128.0
# log2 of the best LR at a batch size, relative to the base batch.
LAWS: dict[str, Callable[[float], float]] = {
    "linear": lambda b: np.log2(b / BASE),
    "sqrt": lambda b: 0.5 * np.log2(b / BASE),
    "saturating": lambda b: np.log2((1 + NOISE_SCALE / BASE) / (1 + NOISE_SCALE / b)),
    "surge": lambda b: np.log2(
        (np.sqrt(NOISE_SCALE / BASE) + np.sqrt(BASE / NOISE_SCALE))
        / (np.sqrt(NOISE_SCALE / b) + np.sqrt(b / NOISE_SCALE))
    ),
}
BASE_LOG2_LR = -3.0
# Increase of log loss at the base batch, per octave² from the best LR: one octave costs the margin.
CURVATURE = np.log1p(MARGIN)
SEED_SD = 0.15
# How many octaves from its start a search may go.
REACH = 6.0
FLOOR = 0.2


class Truth:
    """A simulated workload: its loss at any batch size, LR and seed."""

    def __init__(self, law: str, noise: float, rng: np.random.Generator) -> None:
        self._law = LAWS[law]
        self._noise = noise
        self._rng = rng
        # A seed has the same offset at every batch size.
        self._offsets: dict[int, float] = {}

    def best(self, batch: int) -> float:
        """Return log2 of the best LR."""
        return BASE_LOG2_LR + float(self._law(batch))

    def regret(self, batch: int, octave: float) -> float:
        """Return how much worse than the best an LR is, in margins."""
        excess = CURVATURE * batch / BASE * (octave - self.best(batch)) ** 2
        return float(np.expm1(excess) / MARGIN)

    def run(self, batch: int, octave: float, seed: int, phase: str = "search") -> Run:
        """Simulate a run at an LR of 2^octave."""
        offset = self._offsets.setdefault(seed, self._rng.normal(0, SEED_SD))
        excess = CURVATURE * batch / BASE * (octave - self.best(batch)) ** 2
        # Far from the best LR the loss is that of the constant guess; with a too large LR the run has stalled.
        is_guess = excess >= np.log(10.0)
        log_loss = min(excess, np.log(10.0)) + offset + self._rng.normal(0, self._noise)
        status = "stalled" if is_guess and octave > self.best(batch) else "complete"
        return Run(batch, 2.0**octave, FLOOR * float(np.exp(log_loss)), seed, status, phase=phase, steps=1000)


def sweep(truth: Truth) -> tuple[Answer, int]:
    """Search, confirm and analyse a simulated workload; return the answer, and how many runs followed the search."""
    searched = [run for batch in BATCHES for run in _search(truth, batch)]
    terms = AnalysisSettings(Margin(MARGIN), base_batch=BASE, looks=LOOKS)
    runs = finish(searched, terms, lambda batch, lr, seed, phase: truth.run(batch, float(np.log2(lr)), seed, phase))
    return analyse(runs, terms), len(runs) - len(searched)


def _search(truth: Truth, batch: int) -> list[Run]:
    # The sweep starts at the linear rule's LR, with a base LR that is an octave too low.
    start = BASE_LOG2_LR - 1 + float(np.log2(batch / BASE))

    def run_at(octave: float) -> list[Run]:
        return [truth.run(batch, octave, seed) for seed in range(SEARCH_SEEDS)]

    return search(start, start - REACH, start + REACH, run_at)


def judge_one(law: str, noise: float, number: int) -> dict[str, object]:
    """Simulate a sweep; return its verdicts with the true regrets, and which intervals cover the true parameters."""
    rng = np.random.default_rng([zlib.crc32(law.encode()), number])
    truth = Truth(law, noise, rng)
    answer, runs = sweep(truth)
    cells = []
    for cell in answer.batches:
        # The base LR is judged as it was used, that is, as the search found it.
        regret = truth.regret(cell.batch, float(np.log2(cell.rules["linear"].lr)))
        covered = cell.ci_low is not None and cell.ci_low <= 2 ** truth.best(cell.batch) <= (cell.ci_high or 0)
        cells.append((cell.batch, regret, cell.rules["linear"].verdict, cell.best_lr is not None, covered))
    fitted = {found.rule: found for found in answer.laws}.get(law)
    true = {"lr_at_base": 2**BASE_LOG2_LR, "noise_scale": NOISE_SCALE}
    covers = {
        name: estimate.low <= true[name] <= estimate.high
        for name, estimate in (fitted.parameters.items() if fitted else ())
    }
    slope = answer.exponent
    if law in ("linear", "sqrt") and slope is not None:
        covers["exponent"] = slope.low <= {"linear": 1.0, "sqrt": 0.5}[law] <= slope.high
    return {"cells": cells, "covers": covers, "winner": answer.selected_law, "runs": runs}


def summarize(law: str, found: list[dict[str, object]]) -> dict[str, float]:
    """Return the shares of right and wrong verdicts and the coverage of intervals, for one law."""
    sweeps = [result["cells"] for result in found]
    away = [cell for cells in sweeps for cell in cells if cell[0] != BASE]
    figures: dict[str, float] = {
        "sweeps with any false `breaks`": float(
            np.mean([any(c[2] == "breaks" and c[1] <= 1 for c in s) for s in sweeps])
        ),
        "`undecided`, of cells": float(np.mean([c[2] == "undecided" for c in away])),
        "`censored`, of cells": float(np.mean([c[2] == "censored" for c in away])),
    }
    groups = {
        "`holds` where the true regret is below half a margin": ("holds", [c for c in away if c[1] < 0.5]),
        "`holds` where it exceeds 1.5 margins": ("holds", [c for c in away if c[1] > 1.5]),
        "`breaks` where it exceeds 2 margins": ("breaks", [c for c in away if c[1] > 2]),
    }
    figures |= {name: float(np.mean([c[2] == verdict for c in g])) for name, (verdict, g) in groups.items() if g}
    estimated = [c for cells in sweeps for c in cells if c[3]]
    figures["best LR's interval covers"] = float(np.mean([c[4] for c in estimated]))
    names = {name for result in found for name in result["covers"]}
    for name in sorted(names):
        known = [result["covers"][name] for result in found if name in result["covers"]]
        figures[f"{name}'s interval covers"] = float(np.mean(known))
    figures["its law is named"] = float(np.mean([result["winner"] == law for result in found]))
    figures["another law is named"] = float(np.mean([result["winner"] not in (None, law) for result in found]))
    return figures


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the shares of each law, and return them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument(
        "--noise", type=float, default=0.1, help="standard deviation of log loss (default: %(default)s)"
    )
    parser.add_argument("--laws", nargs="*", default=list(LAWS))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    figures = {}
    with ProcessPoolExecutor(options.workers, initializer=fit_each_search_once) as pool:
        for law in options.laws:
            found = list(pool.map(partial(judge_one, law, options.noise), range(options.sweeps), chunksize=2))
            figures[law] = summarize(law, found)
            print(f"\n{law}, {options.sweeps} sweeps, noise {options.noise:g}")
            for name, share in figures[law].items():
                print(f"  {share:6.1%}  {name}")
            print(f"  {np.mean([result['runs'] for result in found]):6.0f}  runs after the search")
    return figures


if __name__ == "__main__":
    main()
