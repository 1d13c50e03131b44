"""What a planned study could show: simulated studies with a guessed noise and curvature."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.runs import CONFIRM, Run
from pipeline.analysis.stats.batch_fit import fit_batches
from pipeline.analysis.stats.confirmation import next_points
from pipeline.analysis.stats.laws import fit_exponent
from pipeline.analysis.stats.optima import estimate_optima
from pipeline.analysis.stats.settings import AnalysisSettings, Margin
from pipeline.analysis.stats.verdict import judge, make_terms

# The expectations are medians over this many simulated sweeps.
SIMULATIONS = 5
# The LRs of a search, in octaves from its middle.
LATTICE = np.arange(-2.75, 3.0, 0.5)
# Log loss far from the best LR, where all LRs are about equally bad.
MAX_LOG_LOSS = 2.0


@dataclass(frozen=True)
class Design:
    """The runs of a planned study, and guesses about the workload.

    Attributes:
        batches, base: all batch sizes in increasing order, and the one that the rules start from.
        seeds: of the search; each runs at 12 LRs, half an octave apart, at each batch size.
        looks: numbers of fresh seeds after which each batch size is judged.
        margin: as a share of the best loss.
        noise: standard deviation of a run's log loss, beside what a seed changes at all LRs alike.
        curvature: log loss per octave² from the best LR, at the base batch; elsewhere in proportion to the batch.
    """

    batches: Sequence[int]
    base: int
    seeds: int = 12
    looks: tuple[int, ...] = (12, 24, 48, 96)
    margin: float = 0.10
    noise: float = 0.10
    curvature: float = 0.03


@dataclass(frozen=True)
class Expectation:
    """Medians over simulations; None where most of these have no estimate.

    Attributes:
        width, pairs: of the best LR's 95 % interval in octaves, and pairs until linear is found to hold; by batch size.
        exponent: width of the exponent's 95 % interval.
        runs: the number of runs, search and fresh seeds together.
    """

    width: dict[int, float | None]
    pairs: dict[int, float | None]
    exponent: float | None
    runs: int


def simulate_design(design: Design) -> Expectation:
    """Simulate sweeps of this design, on a workload for which the linear rule is true and the best loss is 1."""
    rng = np.random.default_rng(0)
    terms = AnalysisSettings(Margin(design.margin), base_batch=design.base, looks=design.looks)
    widths: dict[int, list[float]] = {batch: [] for batch in design.batches}
    pairs: dict[int, list[float]] = {batch: [] for batch in design.batches}
    exponent_widths: list[float] = []
    counts = []
    for _ in range(SIMULATIONS):
        runs = _simulate_runs(design, terms, rng)
        fits = fit_batches(runs)
        for batch, cell in judge(fits, make_terms(fits, design.base, terms)).items():
            linear = cell.rules["linear"]
            pairs[batch].append(linear.seeds if linear.verdict == "holds" else math.inf)
            best = cell.best_interval
            widths[batch].append(math.inf if best is None else math.log2(best.high / best.low))
        exponent = fit_exponent(estimate_optima(list(fits.values()), rng))
        if exponent is not None:
            exponent_widths.append(exponent.high - exponent.low)
        counts.append(len(runs))
    exponent_width = float(np.median(exponent_widths)) if exponent_widths else None
    return Expectation(_medians(widths), _medians(pairs), exponent_width, round(float(np.median(counts))))


def _medians(values: Mapping[int, Sequence[float]]) -> dict[int, float | None]:
    medians = {batch: float(np.median(found)) for batch, found in values.items()}
    return {batch: median if math.isfinite(median) else None for batch, median in medians.items()}


def _simulate_runs(design: Design, terms: AnalysisSettings, rng: np.random.Generator) -> list[Run]:
    """The search, and the fresh seeds until every batch size is decided."""
    runs = []
    for batch in design.batches:
        middle = rng.normal(0, 0.3)
        runs += [
            _simulate_run(design, batch, middle + x, seed, "search", rng)
            for x in LATTICE
            for seed in range(design.seeds)
        ]
    while extensions := next_points(runs, terms):
        for extension in extensions:
            for lr in extension.lrs:
                octaves = math.log2(lr) - math.log2(extension.batch / design.base)
                runs += [_simulate_run(design, extension.batch, octaves, s, CONFIRM, rng) for s in extension.seeds]
    return runs


def _simulate_run(design: Design, batch: int, octaves: float, seed: int, phase: str, rng: np.random.Generator) -> Run:
    """A run at so many octaves from the best LR, which is 1 at the base batch."""
    excess = min(design.curvature * batch / design.base * octaves**2, MAX_LOG_LOSS)
    loss = math.exp(excess + rng.normal(0, design.noise))
    return Run(batch, 2.0 ** (math.log2(batch / design.base) + octaves), loss, seed=seed, phase=phase)
