"""What a design could tell, before anything runs: simulated studies with the noise and curvature of a guess."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.runs import CONFIRM, Run
from pipeline.analysis.stats.batch_fit import BatchFit, fit_batch
from pipeline.analysis.stats.confirmation import points_to_confirm
from pipeline.analysis.stats.laws import fit_exponent
from pipeline.analysis.stats.optima import estimate_optima
from pipeline.analysis.stats.power import detectable_error
from pipeline.analysis.stats.results import JUDGED_RULES, Estimate
from pipeline.analysis.stats.verdict import LEVEL, judge

# Simulated sweeps; the figures are their medians.
SIMULATIONS = 10
# Where a sampler puts trials around the best LR, in octaves: a bracket first, then a spread.
_BRACKET, _SPREAD = (0.0, -2.0, 2.0), (0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5)


@dataclass(frozen=True)
class Design:
    """What would be run, and what is guessed of the workload.

    Attributes:
        batches: with the base batch among them.
        seeds, trials: of the search, at each batch size.
        confirm_seeds: fresh seeds at each rule's LR and at the best one.
        margin: as a share of the best loss.
        noise: standard deviation of a run's loss between seeds, as a share of it.
        curvature: log loss an octave² off the best LR at the base batch; it grows in proportion to the batch.
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
        """How many runs it takes: at the base batch the rules' LRs and the best one are the same."""
        points = (len(self.batches) - 1) * (len(JUDGED_RULES) + 1) + 1
        return len(self.batches) * self.trials + (points * self.confirm_seeds if len(self.batches) > 1 else 0)


@dataclass(frozen=True)
class Expectation:
    """What a design could tell.

    Attributes:
        width: median width of the best LR's 95 % interval, in octaves, by batch size; None where most
            simulations have no estimate.
        detectable: octaves by which an LR must be wrong to be called so in 80 % of simulations; None: more
            than four.
        exponent: median width of its 95 % interval; None where it isn't fitted.
    """

    width: dict[int, float | None]
    detectable: dict[int, float | None]
    exponent: float | None


def expect(design: Design) -> Expectation:
    """Simulate sweeps of this design on a workload for which linear is true."""
    rng = np.random.default_rng(0)
    widths: dict[int, list[float]] = {batch: [] for batch in design.batches}
    errors: dict[int, list[float]] = {batch: [] for batch in design.batches}
    slopes: list[Estimate] = []
    for _ in range(SIMULATIONS):
        runs = [run for batch in design.batches for run in _search(design, batch, rng)]
        for batch, lr in points_to_confirm(runs, design.base) if design.confirm_seeds else ():
            octaves = math.log2(lr) - _best(design, batch)
            runs += [_run(design, batch, octaves, 1000 + i, CONFIRM, rng) for i in range(design.confirm_seeds)]
        cells = {batch: fit_batch([run for run in runs if run.batch == batch]) for batch in design.batches}
        # The simulated loss is 1 at its best.
        margin = design.margin
        judged = judge(cells, design.base, margin)
        for batch, cell in cells.items():
            judged_cell = BatchFit(judged[batch], cell.runs, cell.pooled)
            level = LEVEL / max(1, len(design.batches) - 1)
            found = detectable_error(judged_cell, cells[design.base], margin, level, rng)
            errors[batch].append(math.inf if found is None else found)
            low, high = cell.result.ci_low, cell.result.ci_high
            widths[batch].append(math.log2(high / low) if low and high else math.inf)
        slope = fit_exponent(estimate_optima(list(cells.values()), rng))
        slopes += [slope] if slope is not None else []
    typical = float(np.median([slope.high - slope.low for slope in slopes])) if slopes else None
    return Expectation(_medians(widths), _medians(errors), typical)


def _medians(found: dict[int, list[float]]) -> dict[int, float | None]:
    medians = {batch: float(np.median(values)) for batch, values in found.items()}
    return {batch: value if math.isfinite(value) else None for batch, value in medians.items()}


def _best(design: Design, batch: int) -> float:
    return math.log2(batch / design.base)


def _run(design: Design, batch: int, octaves: float, seed: int, phase: str, rng: np.random.Generator) -> Run:
    """A run so many octaves off the best LR; far off, everything is about equally bad."""
    log_loss = min(design.curvature * batch / design.base * octaves**2, 2.0) + rng.normal(0, design.noise)
    return Run(batch, 2.0 ** (_best(design, batch) + octaves), math.exp(log_loss), seed=seed, phase=phase)


def _search(design: Design, batch: int, rng: np.random.Generator) -> list[Run]:
    """One batch size's search, laid out as this project's sampler does: a bracket, then a spread."""
    near = rng.normal(0, 0.3)
    spread = [near + _SPREAD[number % len(_SPREAD)] + rng.uniform(-0.2, 0.2) for number in range(design.trials)]
    octaves = [*_BRACKET, *spread][: design.trials]
    return [_run(design, batch, x, number % design.seeds, "search", rng) for number, x in enumerate(octaves)]
