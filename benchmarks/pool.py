"""Measure how often sequential verdicts are right, by drawing studies from a pool of recorded runs.

    python benchmarks/pool.py digits.csv.gz --studies 1000

The pool has the columns `batch, lr, seed, value, status`: about 200 seeds at each of many LRs, half an octave apart, at
each batch size. A study draws seeds without replacement: 12 for a search of 12 LRs at each batch size, and the fresh
seeds that `next_points` asks for. What is true is the mean over the whole pool.
"""

import argparse
import csv
import functools
import gzip
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.analysis.runs import CONFIRM, Run
from pipeline.analysis.stats import batch_fit
from pipeline.analysis.stats.batch_fit import BatchFit, fit_batches, lowest_failing
from pipeline.analysis.stats.confirmation import next_points
from pipeline.analysis.stats.curve import Curve, fit_curve
from pipeline.analysis.stats.pairs import FAILED_LOSS
from pipeline.analysis.stats.results import BatchResult
from pipeline.analysis.stats.settings import AnalysisSettings, Margin
from pipeline.analysis.stats.verdict import judge, make_terms
from pipeline.search.sampler import Point, next_point

LOOKS = (12, 24, 48, 96)
SEARCH_LRS, SEARCH_SEEDS = 12, 12
# A search starts at most so many octaves from the best LR of the base batch.
OFF_CENTRE = 1.0
# A cell in which linear is this many margins or more worse than the best is clearly wrong; below half a margin, right.
CLEARLY_WRONG, CLEARLY_RIGHT, FAR = 1.5, 0.5, 2.0


@dataclass(frozen=True)
class PoolCell:
    """The recorded runs of one batch size: values [L, S] at the LRs [L], ascending; NaN where training failed."""

    batch: int
    lrs: np.ndarray
    values: np.ndarray

    @functools.cached_property
    def mean_logs(self) -> np.ndarray:
        """[L] mean log loss at each LR; a failed run counts as in `pipeline.analysis.stats.pairs`."""
        logs = np.log(self.values)
        failed = np.isnan(logs)
        healthy = logs[failed.mean(axis=1) < 0.2]
        penalty = np.nanmean(healthy, axis=1).min() + math.log(FAILED_LOSS)
        return np.asarray(np.where(failed, penalty, logs).mean(axis=1))

    @property
    def best(self) -> int:
        """Index of the best LR."""
        return int(self.mean_logs.argmin())

    @functools.cached_property
    def best_octave(self) -> float:
        """log2 of the best LR: the minimum of a polynomial through the means within an octave of the best."""
        octaves = np.log2(self.lrs)
        near = np.abs(octaves - octaves[self.best]) <= 1.1
        fine = np.linspace(octaves[near].min(), octaves[near].max(), 500)
        return float(
            fine[np.polyval(np.polyfit(octaves[near], self.mean_logs[near], min(4, near.sum() - 1)), fine).argmin()]
        )

    def nearest(self, lr: float) -> int:
        """Index of the LR nearest to `lr`."""
        return int(np.abs(np.log2(self.lrs / lr)).argmin())


def load(path: Path) -> dict[int, PoolCell]:
    """Read a pool; of each batch size, the seeds that ran at every LR."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")  # noqa: SIM115
    table: dict[int, dict[float, dict[int, float]]] = {}
    with opened as file:
        for row in csv.DictReader(file):
            value = float(row["value"]) if row["status"] == "complete" and row["value"] else math.nan
            seeds = table.setdefault(int(row["batch"]), {}).setdefault(float(row["lr"]), {})
            seeds[int(row["seed"])] = value if math.isfinite(value) else math.nan
    cells = {}
    for batch, lrs in sorted(table.items()):
        common = sorted(set.intersection(*(set(seeds) for seeds in lrs.values())))
        values = np.array([[lrs[lr][seed] for seed in common] for lr in sorted(lrs)])
        cells[batch] = PoolCell(batch, np.array(sorted(lrs)), values)
    return cells


RunOne = Callable[[int, float, int, str], Run]


def search(start: float, lowest: float, highest: float, run_at: Callable[[float], list[Run]]) -> list[Run]:
    """Search as a sweep does: this project's sampler proposes an LR, and all seeds of the search run there.

    Args:
        start, lowest, highest: log2 of the LR to begin with, and of the ends of what may be tried.
        run_at: the runs at about one log2 LR.
    """
    runs: list[Run] = []
    points: list[Point] = []
    for _ in range(SEARCH_LRS):
        here = run_at(next_point(points, lowest, highest) if points else start)
        losses = [math.log(run.value) for run in here if run.usable]
        failed = lowest_failing(here) < math.inf
        mean = float(np.mean(losses)) if losses and not failed else None
        points.append(Point(math.log2(here[0].lr), mean, failed=failed))
        runs += here
    return runs


def finish(search: Sequence[Run], settings: AnalysisSettings, run_one: RunOne) -> list[Run]:
    """Run what `next_points` asks for, until it asks for nothing; return all runs."""
    runs = list(search)
    while extensions := next_points(runs, settings):
        for extension in extensions:
            runs += [run_one(extension.batch, lr, seed, CONFIRM) for lr in extension.lrs for seed in extension.seeds]
    return runs


def judged(runs: Sequence[Run], settings: AnalysisSettings) -> dict[int, BatchResult]:
    """Return the results with their verdicts, as `analyse` gives them."""
    assert settings.base_batch is not None
    fits = fit_batches(runs)
    return judge(fits, make_terms(fits, settings.base_batch, settings))


def fit_each_search_once() -> None:
    """Keep the curves that were fitted: fresh seeds don't change them, and their fits take most of the time."""
    known: dict[tuple[object, ...], Curve | None] = {}

    def fit(runs: Sequence[Run], rng: np.random.Generator) -> Curve | None:
        key = tuple((run.batch, run.lr, run.value, run.seed) for run in runs)
        if key not in known:
            if len(known) > 100:
                known.clear()
            known[key] = fit_curve(runs, rng)
        return known[key]

    batch_fit.fit_curve = fit  # type: ignore[assignment]


def draw_study(cells: Mapping[int, PoolCell], base: int, margin: float, number: int) -> dict[str, object]:
    """Draw a study, finish it, and compare linear's verdicts with what is true."""
    rng = np.random.default_rng(number)
    order = rng.permutation(min(cell.values.shape[1] for cell in cells.values()))

    def run_one(batch: int, lr: float, seed: int, phase: str) -> Run:
        cell = cells[batch]
        column = order[seed if phase != CONFIRM else SEARCH_SEEDS + seed - 1000]
        value = cell.values[cell.nearest(lr), column]
        is_beyond = lr > cell.lrs[-1] * 2**0.3
        status = "diverged" if math.isnan(value) or is_beyond else "complete"
        return Run(batch, lr, float(value), seed=seed, status=status, phase=phase)

    searched = []
    offset = rng.uniform(-OFF_CENTRE, OFF_CENTRE)
    for cell in cells.values():
        octaves = np.log2(cell.lrs)
        unused = list(octaves)

        def run_at(octave: float, cell: PoolCell = cell, unused: list[float] = unused) -> list[Run]:
            nearest = min(unused, key=lambda other: abs(other - octave))
            if len(unused) > 1:
                unused.remove(nearest)
            return [run_one(cell.batch, 2.0**nearest, seed, "search") for seed in range(SEARCH_SEEDS)]

        # A sweep starts at the linear rule's LR, from a base LR that is guessed.
        start = math.log2(cells[base].lrs[cells[base].best] * cell.batch / base) + offset
        searched += search(float(np.clip(start, octaves[0], octaves[-1])), octaves[0], octaves[-1], run_at)
    at_base: BatchFit = fit_batches([run for run in searched if run.batch == base])[base]
    if at_base.result.best_lr is None:
        return {"cells": [], "runs": 0, "found": _found(cells, {base: at_base.result})}
    # Rules start from an LR of the pool, so that linear's LRs are in it.
    start = float(cells[base].lrs[cells[base].nearest(at_base.result.best_lr)])
    settings = AnalysisSettings(Margin(margin), base_batch=base, configured_base=base, looks=LOOKS, base_lr=start)
    runs = finish(searched, settings, run_one)
    results = judged(runs, settings)
    base_loss = math.exp(cells[base].mean_logs.min())
    rows = []
    for batch, cell in cells.items():
        if batch != base:
            lr = start * batch / base
            is_beyond = lr > cell.lrs[-1] * 2**0.3
            regret = math.inf if is_beyond else cell.mean_logs[cell.nearest(lr)] - cell.mean_logs.min()
            in_margins = regret / math.log1p(margin * base_loss / math.exp(cell.mean_logs.min()))
            rule = results[batch].rules["linear"]
            rows.append((batch, in_margins, rule.verdict, rule.seeds))
    return {"cells": rows, "runs": len(runs) - len(searched), "found": _found(cells, results)}


def _found(cells: Mapping[int, PoolCell], results: Mapping[int, BatchResult]) -> list[tuple[int, bool, float]]:
    """For each batch size with a best LR: whether its interval covers the pool's, and its width in octaves."""
    found = []
    for batch, result in results.items():
        if result.ci_low is not None and result.ci_high is not None:
            covers = result.ci_low <= 2 ** cells[batch].best_octave <= result.ci_high
            found.append((batch, bool(covers), math.log2(result.ci_high / result.ci_low)))
    return found


def summarize(studies: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Return the shares of right and wrong verdicts, and what they took."""
    per_study = [study["cells"] for study in studies]
    cells = [cell for rows in per_study for cell in rows]
    figures = {
        "studies with any false `breaks`": np.mean([any(c[2] == "breaks" and c[1] <= 1 for c in s) for s in per_study]),
        "decided, of batch sizes beside the base": np.mean(
            [sum(c[2] in ("holds", "breaks") for c in s) for s in per_study]
        ),
        "runs after the search": np.mean([study["runs"] for study in studies]),
    }
    groups = {
        f"`holds` where it exceeds {CLEARLY_WRONG:g} margins": ("holds", [c for c in cells if c[1] > CLEARLY_WRONG]),
        f"`breaks` where it exceeds {FAR:g} margins": ("breaks", [c for c in cells if c[1] > FAR]),
        "`holds` where the true regret is below half a margin": ("holds", [c for c in cells if c[1] < CLEARLY_RIGHT]),
        "`holds` where it exceeds a margin": ("holds", [c for c in cells if c[1] > 1]),
    }
    figures |= {name: np.mean([c[2] == verdict for c in group]) for name, (verdict, group) in groups.items() if group}
    found = [row for study in studies for row in study["found"]]
    figures["best LR's interval covers"] = np.mean([covers for _, covers, _ in found])
    figures["best LR's interval, median width in octaves"] = np.median([width for _, _, width in found])
    return {name: float(value) for name, value in figures.items()}


def by_batch(studies: Sequence[Mapping[str, object]]) -> list[str]:
    """Return a line for each batch size: verdicts, true regrets, coverage."""
    lines = []
    cells = [cell for study in studies for cell in study["cells"]]
    for batch in sorted({cell[0] for cell in cells}):
        here = [cell for cell in cells if cell[0] == batch]
        shares = {verdict: np.mean([cell[2] == verdict for cell in here]) for verdict in sorted({c[2] for c in here})}
        said = ", ".join(f"{verdict} {share:.0%}" for verdict, share in shares.items())
        low, middle, high = np.quantile([cell[1] for cell in here], (0.1, 0.5, 0.9), method="nearest")
        covers = np.mean([row[1] for study in studies for row in study["found"] if row[0] == batch])
        regrets = f"true regret {low:.2f}, {middle:.2f}, {high:.2f} margins (deciles 1, 5, 9)"
        regrets = f"true regret {low:.2f}, {middle:.2f}, {high:.2f} margins (deciles 1, 5, 9)"
        lines.append(f"  {batch:5d}: {said}; best LR covered {covers:.0%}; {regrets}")
    return lines


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Print the shares, and return them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", type=Path)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first study, which is its random seed")
    parser.add_argument("--base", type=int, default=64)
    parser.add_argument("--margin", type=float, default=0.10)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    draw = functools.partial(draw_study, load(options.pool), options.base, options.margin)
    numbers = range(options.first, options.first + options.studies)
    with ProcessPoolExecutor(options.workers, initializer=fit_each_search_once) as pool:
        studies = list(pool.map(draw, numbers, chunksize=4))
    figures = summarize(studies)
    print(f"{options.studies} studies, base {options.base}, margin {options.margin:.0%}")
    for name, value in figures.items():
        print(f"  {value:8.4g}  {name}")
    print("\n".join(by_batch(studies)))
    return figures


if __name__ == "__main__":
    main()
