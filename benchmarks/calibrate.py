"""Measure how often the 95 % intervals of the best LR cover the truth, on simulated studies.

    python benchmarks/calibrate.py


It simulates 500 studies for each of 64 scenarios: four shapes of the loss curve, equal noise or noise that grows with
the LR, a grid of LRs or this project's sampler, and 1, 3, 5 or 8 seeds. Studies without an estimate (censored) are
counted separately.
"""

import argparse
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.curve import fit_curve
from pipeline.search.sampler import Point, next_point

# Log loss above the minimum, at d octaves from the best LR. The curvature of the skewed shapes jumps at the minimum,
# which no smooth curve follows: they are meant to be hard.
SHAPES: dict[str, Callable[[float], float]] = {
    "symmetric": lambda d: 0.05 * d**2,
    "steep left": lambda d: (0.10 if d < 0 else 0.025) * d**2,
    "steep right": lambda d: (0.03 if d < 0 else 0.12) * d**2,
    "walled": lambda d: 0.05 * d**2,
}
NOISES = ("equal", "growing")
DESIGNS = ("grid", "adaptive")
SEEDS = (1, 3, 5, 8)
# Standard deviations of log loss, between runs at the best LR and between seeds: as on digits at batch 64 to 256.
NOISE_SD, SEED_SD = 0.03, 0.05
# Runs of the shape `walled` diverge from here on: octaves above the best LR, at random between the two.
WALL = (0.75, 1.75)
ADAPTIVE_TRIALS, WAVE = 24, 4
# Octaves below and above the start that an adaptive study may search.
REACH = 5.0


@dataclass(frozen=True)
class Scenario:
    """A kind of study."""

    shape: str
    noise: str
    design: str
    seeds: int


class Truth:
    """The loss curve of one simulated study, with its minimum at `best` octaves."""

    def __init__(self, scenario: Scenario, rng: np.random.Generator) -> None:
        self.best = rng.uniform(-0.5, 0.5)
        self._scenario = scenario
        self._wall = self.best + rng.uniform(*WALL) if scenario.shape == "walled" else np.inf
        self._offsets = rng.normal(0, SEED_SD, scenario.seeds)
        self._rng = rng

    def run(self, octave: float, seed: int) -> Run:
        """Simulate a run at an LR of 2^octave."""
        distance = octave - self.best
        sd = NOISE_SD * (2 ** (distance / 2) if self._scenario.noise == "growing" else 1.0)
        log_loss = SHAPES[self._scenario.shape](distance) + self._offsets[seed] + self._rng.normal(0, sd)
        status = "diverged" if octave >= self._wall else "complete"
        return Run(64, 2.0**octave, 0.2 * float(np.exp(log_loss)), seed=seed, status=status)


def simulate(scenario: Scenario, rng: np.random.Generator) -> tuple[list[Run], float]:
    """Return a study's runs, and log2 of the LR that is truly best."""
    truth = Truth(scenario, rng)
    if scenario.design == "grid":
        octaves = np.arange(-3, 3.25, 0.5) + rng.uniform(-0.25, 0.25)
        return [truth.run(float(x), seed) for x in octaves for seed in range(scenario.seeds)], truth.best
    runs: list[Run] = []
    start = truth.best + rng.uniform(-1, 1)
    while len(runs) < ADAPTIVE_TRIALS:
        points = [_point(run) for run in runs]
        for number in range(len(runs), len(runs) + WAVE):
            seed = number % scenario.seeds
            octave = next_point(points, start - REACH, start + REACH, seed) if points else start
            points.append(Point(octave, None, seed))
            runs.append(truth.run(octave, seed))
    return runs, truth.best


def _point(run: Run) -> Point:
    return Point(float(np.log2(run.lr)), float(np.log(run.value)) if run.usable else None, run.seed, run.failed)


def calibrate(scenario: Scenario, studies: int) -> tuple[int, int, float]:
    """Return (number of estimates, how many cover the truth, median width of the interval in octaves)."""
    rng = np.random.default_rng(zlib.crc32(repr(scenario).encode()))
    widths, covered = [], 0
    for _ in range(studies):
        runs, best = simulate(scenario, rng)
        failing = min((run.lr for run in runs if run.failed), default=np.inf)
        curve = fit_curve([run for run in runs if run.usable and run.lr < failing], rng)
        if curve is None or curve.censored():
            continue
        _, low, high = curve.interval()
        widths.append(high - low)
        covered += bool(low <= best <= high)
    return len(widths), covered, float(np.median(widths)) if widths else float("nan")


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """Print a row for each scenario; return the pooled coverage and the lowest coverage of a scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=500, help="simulated studies for each scenario")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    scenarios = [Scenario(*chosen) for chosen in product(SHAPES, NOISES, DESIGNS, SEEDS)]
    with ProcessPoolExecutor(options.workers) as pool:
        found = list(pool.map(calibrate, scenarios, [options.studies] * len(scenarios)))
    print(f"{'shape':12} {'noise':8} {'design':9} seeds  covered  no estimate  median width (octaves)")
    shares = []
    for scenario, (estimates, covered, width) in zip(scenarios, found, strict=True):
        shares.append(covered / estimates if estimates else 1.0)
        missing = 1 - estimates / options.studies
        name = f"{scenario.shape:12} {scenario.noise:8} {scenario.design:9} {scenario.seeds:5}"
        print(f"{name}  {shares[-1]:7.1%}  {missing:11.1%}  {width:.2f}")
    pooled = sum(covered for _, covered, _ in found) / sum(estimates for estimates, _, _ in found)
    print(f"pooled {pooled:.1%}, lowest {min(shares):.1%}")
    return pooled, min(shares)


if __name__ == "__main__":
    main()
