"""What a planned study could show: simulated studies with a guessed noise and curvature."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.runs import CONFIRM, Run
from pipeline.analysis.stats.batch_fit import fit_batches
from pipeline.analysis.stats.confirmation import points_to_confirm
from pipeline.analysis.stats.laws import fit_exponent
from pipeline.analysis.stats.optima import estimate_optima
from pipeline.analysis.stats.power import detectable_errors
from pipeline.analysis.stats.results import JUDGED_RULES
from pipeline.analysis.stats.verdict import LEVEL, judge

# The expectations are medians over this many simulated sweeps.
SIMULATIONS = 10
# Where the sampler puts trials, in octaves from the start or from the best LR: a bracket first, then spread points.
BRACKET, SPREAD = (0.0, -2.0, 2.0), (0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5)
# Log loss far from the best LR, where all LRs are about equally bad.
MAX_LOG_LOSS = 2.0


@dataclass(frozen=True)
class Design:
    """The runs of a planned study, and guesses about the workload.

    Attributes:
        batches, base: all batch sizes in increasing order, and the one that the rules start from.
        seeds, trials: of the search, at each batch size.
        confirm_seeds: fresh seeds at each rule's LR and at the best one.
        margin: as a share of the best loss.
        noise: standard deviation between seeds of a run's log loss.
        curvature: log loss per octave² from the best LR, at the base batch; elsewhere in proportion to the batch.
    """

    batches: Sequence[int]
    base: int
    seeds: int = 3
    trials: int = 24
    confirm_seeds: int = 5
    margin: float = 0.05
    noise: float = 0.03
    curvature: float = 0.05

    @property
    def runs(self) -> int:
        """The number of runs. At the base batch the rules' LRs and the best one are the same."""
        points = (len(self.batches) - 1) * (len(JUDGED_RULES) + 1) + 1
        return len(self.batches) * self.trials + (points * self.confirm_seeds if len(self.batches) > 1 else 0)


@dataclass(frozen=True)
class Expectation:
    """Medians over simulations; None where most of these have no estimate.

    Attributes:
        width, detectable: of the best LR's 95 % interval, and the error of `power`; in octaves, by batch size.
        exponent: width of the exponent's 95 % interval.
    """

    width: dict[int, float | None]
    detectable: dict[int, float | None]
    exponent: float | None


def simulate_design(design: Design) -> Expectation:
    """Simulate sweeps of this design, on a workload for which the linear rule is true and the best loss is 1."""
    rng = np.random.default_rng(0)
    widths: dict[int, list[float]] = {batch: [] for batch in design.batches}
    errors: dict[int, list[float]] = {batch: [] for batch in design.batches}
    exponent_widths: list[float] = []
    for _ in range(SIMULATIONS):
        fits = fit_batches(_simulate_runs(design, rng))
        judged = judge(fits, design.base, design.margin)
        detectable = detectable_errors(fits, judged, design.base, design.margin, LEVEL, rng)
        for batch, fit in fits.items():
            error = detectable[batch]
            errors[batch].append(math.inf if error is None else error)
            best = fit.result.best_interval
            widths[batch].append(math.inf if best is None else math.log2(best.high / best.low))
        exponent = fit_exponent(estimate_optima(list(fits.values()), rng))
        if exponent is not None:
            exponent_widths.append(exponent.high - exponent.low)
    exponent_width = float(np.median(exponent_widths)) if exponent_widths else None
    return Expectation(_medians(widths), _medians(errors), exponent_width)


def _medians(values: Mapping[int, Sequence[float]]) -> dict[int, float | None]:
    medians = {batch: float(np.median(found)) for batch, found in values.items()}
    return {batch: median if math.isfinite(median) else None for batch, median in medians.items()}


def _simulate_runs(design: Design, rng: np.random.Generator) -> list[Run]:
    """The search, and the fresh seeds that confirm it."""
    runs = [run for batch in design.batches for run in _simulate_search(design, batch, rng)]
    for batch, lr in points_to_confirm(runs, design.base) if design.confirm_seeds else ():
        octaves = math.log2(lr) - math.log2(batch / design.base)
        runs += [_simulate_run(design, batch, octaves, 1000 + i, CONFIRM, rng) for i in range(design.confirm_seeds)]
    return runs


def _simulate_search(design: Design, batch: int, rng: np.random.Generator) -> list[Run]:
    """The search at one batch size, with trials where the sampler would put them."""
    guess = rng.normal(0, 0.3)
    spread = [guess + SPREAD[number % len(SPREAD)] + rng.uniform(-0.2, 0.2) for number in range(design.trials)]
    octaves = [*BRACKET, *spread][: design.trials]
    return [_simulate_run(design, batch, x, number % design.seeds, "search", rng) for number, x in enumerate(octaves)]


def _simulate_run(design: Design, batch: int, octaves: float, seed: int, phase: str, rng: np.random.Generator) -> Run:
    """A run at so many octaves from the best LR, which is 1 at the base batch."""
    excess = min(design.curvature * batch / design.base * octaves**2, MAX_LOG_LOSS)
    loss = math.exp(excess + rng.normal(0, design.noise))
    return Run(batch, 2.0 ** (math.log2(batch / design.base) + octaves), loss, seed=seed, phase=phase)
