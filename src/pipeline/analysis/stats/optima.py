"""The best LRs of all batch sizes, with the covariance of their estimates.

The variances come from the posterior of each batch size's curve. The correlations come from the seeds: all batch sizes
have the same seeds, so one seed may move several best LRs at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.analysis.run_table import parse_number, read_rows
from pipeline.analysis.runs import CONFIRM
from pipeline.analysis.stats.batch_fit import BatchFit
from pipeline.analysis.stats.curve import fit_curve
from pipeline.errors import RequestError

# The jackknife leaves out so many groups of seeds in turn, at most; each costs a fit of every batch size.
MAX_GROUPS = 8
# What the estimator itself adds to each best LR, in octaves, however many seeds there are: the grid, and curves that
# are steeper on one side. With many seeds, laws whose intervals ignore it cover 89 to 92 % (benchmarks/verdicts.py).
SYSTEMATIC_SD = 0.06
# With fewer published best LRs nothing shows how well a law fits.
MIN_ROWS = 4
# A 95 % interval is so many standard deviations wide.
WIDTH_95 = 3.92


@dataclass(frozen=True)
class Optima:
    """The best LRs of several batch sizes, with their joint uncertainty.

    Attributes:
        batches: [n] batch sizes that have a best LR.
        octaves: [n] log2 of the best LR.
        covariance: [n, n] of `octaves`.
        freedom: degrees of freedom of the covariance's scale, if it was estimated; infinite where it is known.
    """

    batches: np.ndarray
    octaves: np.ndarray
    covariance: np.ndarray
    freedom: float = math.inf

    def only(self, keep: np.ndarray) -> "Optima":
        """Return those where `keep` is true."""
        return Optima(self.batches[keep], self.octaves[keep], self.covariance[np.ix_(keep, keep)], self.freedom)


def estimate_optima(fits: Sequence[BatchFit], rng: np.random.Generator) -> Optima:
    """Collect the best LRs with their posterior variances and the correlations from shared seeds."""
    known = [(fit, fit.result.curve) for fit in fits if fit.result.best_lr is not None and fit.result.curve is not None]
    draws = np.array([curve.argmins() for _, curve in known]) if known else np.empty((0, 1))
    sds = np.sqrt(draws.var(axis=1) + SYSTEMATIC_SD**2)
    correlation = _seed_correlation([fit for fit, _ in known], rng)
    batches = np.array([fit.result.batch for fit, _ in known], dtype=float)
    return Optima(batches, np.median(draws, axis=1), correlation * np.outer(sds, sds))


def _seed_correlation(fits: Sequence[BatchFit], rng: np.random.Generator) -> np.ndarray:
    """[n, n] correlation of the best LRs that comes from shared seeds, by the delete-a-group jackknife (Kott 2001).

    Each group of seeds is left out at all batch sizes at once. A correlation from G groups has a standard error of
    about 1/√G, too large for pairs of batch sizes one by one: in simulations it made the laws' intervals too narrow. So
    all pairs get the mean correlation, or none where that is negative.
    """
    seeds = sorted({run.seed for fit in fits for run in fit.runs if run.seed is not None and run.phase != CONFIRM})
    groups = [set(seeds[start::MAX_GROUPS]) for start in range(min(len(seeds), MAX_GROUPS))]
    if len(groups) < 3 or len(fits) < 2:
        return np.eye(len(fits))
    octaves = np.full((len(groups), len(fits)), np.nan)
    for row, group in enumerate(groups):
        for column, fit in enumerate(fits):
            failing = fit.result.failing_lr or math.inf
            kept = [r for r in fit.runs if r.usable and r.lr < failing and r.phase != CONFIRM and r.seed not in group]
            curve = fit_curve(kept, rng)
            if curve is not None:
                octaves[row, column] = np.median(curve.argmins())
    known = np.isfinite(octaves)
    means = np.where(known, octaves, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    deviations = np.where(known, octaves - means, 0.0)
    norms = np.sqrt((deviations**2).sum(axis=0))
    with np.errstate(invalid="ignore"):
        correlation = np.nan_to_num(deviations.T @ deviations / np.outer(norms, norms))
    mean = max(0.0, float(correlation[~np.eye(len(fits), dtype=bool)].mean()))
    return (1 - mean) * np.eye(len(fits)) + mean


def read_optima(path: Path) -> Optima | None:
    """Read published best LRs: `batch, best_lr` and, if all rows have them, `ci_low, ci_high` (a 95 % interval).

    Without intervals, all best LRs get the standard deviation of the residuals of a power law. Then the exponent has a
    Student's t interval, but laws can't be compared.

    Returns:
        The best LRs; None if the table has no column `best_lr`, or has a column `lr` of single runs.

    Raises:
        RequestError: a cell is no positive number, a batch size is repeated, or there are too few.
    """
    rows = read_rows(path)
    if not rows or "best_lr" not in rows[0] or "lr" in rows[0]:
        return None
    values = [_read_row(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
    batches = np.array([value["batch"] for value in values])
    if len(set(batches)) < len(batches) or len(batches) < MIN_ROWS:
        raise RequestError(f"{path}: a law needs best LRs of {MIN_ROWS} batch sizes or more, each once.")
    octaves = np.log2([value["best_lr"] for value in values])
    freedom = math.inf
    if all("ci_low" in value and "ci_high" in value for value in values):
        sds = np.array([math.log2(value["ci_high"] / value["ci_low"]) / WIDTH_95 for value in values])
    else:
        slope, constant = np.polyfit(np.log2(batches), octaves, 1)
        residuals = octaves - slope * np.log2(batches) - constant
        freedom = len(batches) - 2
        sds = np.full(len(batches), math.sqrt((residuals**2).sum() / freedom))
    order = np.argsort(batches)
    # A perfect fit has no residuals, but the covariance must be invertible.
    sds = np.maximum(sds, 1e-6)[order]
    return Optima(batches[order], octaves[order], np.diag(sds**2), freedom)


def _read_row(row: Mapping[str, Any], where: str) -> dict[str, float]:
    names = ("batch", "best_lr", "ci_low", "ci_high")
    values = {name: parse_number(name, row[name], where) for name in names if row.get(name)}
    if missing := [name for name in ("batch", "best_lr") if name not in values]:
        raise RequestError(f"{where}: no {missing[0]}.\nA table of best LRs needs batch and best_lr.")
    is_positive = all(0 < value < math.inf for value in values.values())
    if not is_positive or values.get("ci_low", 0) > values.get("ci_high", math.inf):
        raise RequestError(
            f"{where}: batch, best_lr and the interval must be finite and above 0, ci_low below ci_high."
        )
    return values
