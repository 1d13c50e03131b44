"""The loss curve of one batch size over the LR, and the posterior of its minimum.

LRs are in octaves, log2 LR. A Gaussian process is fitted to the log loss near the best LR, and the best LR is where
posterior draws of the curve have their minimum. A parabola alone would be simpler, but loss curves are steep on one
side: its interval would miss the best LR however many seeds there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.gaussian_process import WINDOW, draw_curves

# Above the best LR, a loss of this many times the lowest one means that training nearly diverges. From the first such
# LR upwards, losses are cut to this level: a smooth curve through one very bad run would oscillate. (Leaving these runs
# out lost the upward slope. Cutting at half this level flattened steep curves and moved their minimum.)
NEAR_DIVERGENCE = 3.0
# Spacing of the grid on which curves are drawn, in octaves; intervals of the best LR are half an octave and wider.
GRID = 1 / 16
# The minimum counts as censored if more than this share of the draws has it at an end of the LRs that were tried.
CENSORED_SHARE = 0.10
# The fewest distinct LRs (bins of a quarter of an octave) and runs that a curve is fitted to.
MIN_BINS, MIN_RUNS = 4, 5


@dataclass(frozen=True)
class Curve:
    """Posterior of one batch size's loss curve.

    Attributes:
        octaves: [G] grid of log2 LR, from the lowest to the highest LR that was fitted.
        draws: [D, G] posterior draws of the log loss.
        reaches_low, reaches_high: whether the grid begins (ends) where no lower (higher) LR was tried, or was cut off.
    """

    octaves: np.ndarray
    draws: np.ndarray
    reaches_low: bool
    reaches_high: bool

    def argmins(self) -> np.ndarray:
        """[D] log2 of the best LR in each draw."""
        return self.octaves[self.draws.argmin(axis=1)]

    def at_best(self) -> np.ndarray:
        """[D] log loss at the median best LR.

        All draws are read at one LR. The minimum of each draw would be biased low, because it selects the point where
        the draw happens to be lowest.
        """
        return self.at(np.full(len(self.draws), np.median(self.argmins())))

    def at(self, octaves: np.ndarray) -> np.ndarray:
        """[D] log loss of draw d at log2 LR `octaves[d]`; constant beyond the ends of the grid."""
        position = np.clip((octaves - self.octaves[0]) / GRID, 0, len(self.octaves) - 1)
        left = np.minimum(position.astype(int), len(self.octaves) - 2)
        share = position - left
        rows = np.arange(len(self.draws))
        return (1 - share) * self.draws[rows, left] + share * self.draws[rows, left + 1]

    def interval(self) -> tuple[float, float, float]:
        """log2 of the best LR, and its 95 % credible interval, widened by half a step of the grid on each side."""
        middle, low, high = np.quantile(self.argmins(), (0.5, 0.025, 0.975))
        return float(middle), float(low - GRID / 2), float(high + GRID / 2)

    def below(self, octave: float) -> "Curve | None":
        """The same curve at LRs below `octave` only; None where fewer than two grid points are left."""
        kept = self.octaves < octave
        if kept.sum() < 2:
            return None
        return Curve(self.octaves[kept], self.draws[:, kept], self.reaches_low, self.reaches_high or not kept.all())

    def censored(self) -> str | None:
        """`low` or `high` where the minimum may lie beyond the LRs that were tried, else None."""
        minimum = self.draws.argmin(axis=1)
        if self.reaches_low and np.mean(minimum == 0) > CENSORED_SHARE:
            return "low"
        if self.reaches_high and np.mean(minimum == len(self.octaves) - 1) > CENSORED_SHARE:
            return "high"
        return None


def fit_curve(runs: Sequence[Run], rng: np.random.Generator) -> Curve | None:
    """Fit the loss curve of one batch size, or return None where there are too few runs or their noise is too large.

    Args:
        runs: usable runs below the lowest LR that failed; a row that is a mean of n runs has the weight of n.
    """
    if len(runs) < MIN_RUNS:
        return None
    x_all = np.log2([run.lr for run in runs])
    values = np.array([run.value for run in runs])
    if not (values > 0).any() or (values < 0).any():
        return None
    # An error of exactly zero has no logarithm: half the smallest positive value replaces it.
    y_all = np.log(np.maximum(values, 0.5 * values[values > 0].min()))
    best, lowest = _best_bin(x_all, y_all)
    limit = lowest + np.log(NEAR_DIVERGENCE)
    clipped_from = np.min(x_all[(x_all > best) & (y_all > limit)], initial=np.inf)
    # Further away the curve has another shape.
    near = np.abs(x_all - best) <= WINDOW
    x = x_all[near]
    y = np.where(x >= clipped_from, np.minimum(y_all[near], limit), y_all[near])
    if len(x) < MIN_RUNS or len(np.unique(np.round(x * 4))) < MIN_BINS:
        return None
    seeds = np.unique([str(run.seed) for run in runs], return_inverse=True)[1][near]
    counts = np.array([run.n or 1 for run in runs], dtype=float)[near]
    low, high = x.min(), x.max()
    grid = low + GRID * np.arange(int((high - low) / GRID + 1e-9) + 1)
    draws = draw_curves(x - best, y - y.mean(), seeds, counts, grid - best, rng)
    if draws is None:
        return None
    return Curve(grid, draws + y.mean(), bool(low == x_all.min()), bool(high == x_all.max()))


def _best_bin(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The bin of `x` (a quarter of an octave) with the lowest mean of `y`: its centre and that mean."""
    bins = np.round(x * 4) / 4
    centers, index = np.unique(bins, return_inverse=True)
    best = centers[np.argmin(np.bincount(index, y) / np.bincount(index))]
    return float(best), float(y[bins == best].mean())
