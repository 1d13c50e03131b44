"""The loss curve of one batch size: a Gaussian process over log LR, and the posterior of its minimum.

The curve is fitted to the log loss near the best, with a quadratic mean, one offset a seed, and hyperparameters
averaged over their likelihood; the position of the minimum is read off posterior curves. Curves are no
parabolas (steep on the left, a wall on the right), which is why no parabola is fitted: its interval would be
wrong however many seeds there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from pipeline.analysis.table import Run

# Octaves (factors of two in LR) either side of the best that enter the fit: further out the curve is another.
WINDOW = 2.5
# To the right of the best, a run this many times as bad stands at the wall: it barely survived …
WALL = 3.0
# … and from the lowest such LR on no loss counts as more than this many times the best: a smooth curve through
# a run four times as bad as its neighbour would ripple. (Leaving these runs out lost the upward slope instead.)
AT_WALL = 1.5
# Spacing of the grid on which curves are drawn, in octaves: a tenth of the usual interval.
GRID = 1 / 16
DRAWS = 2000
# Share of the draws at an end of what was tried above which the minimum counts as not found.
CENSORED_SHARE = 0.10
# The fewest places (LRs a quarter of an octave apart) and runs that a curve can be fitted to.
FEWEST_PLACES, FEWEST_RUNS = 4, 5
# Hyperparameters: length in octaves; the rest in units of log loss.
# Neither very long nor very small: with those in, intervals on skewed curves were too narrow (coverage 0.80
# to 0.88 instead of 0.81 to 1.00, over 40 simulated studies a scenario, as in tests/analysis/test_curve.py).
LENGTHS = (0.75, 1.5)
AMPLITUDES = (0.06, 0.2, 0.6)
SEED_SDS = (0.003, 0.02, 0.06, 0.2)
NOISE_SDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
# Standard deviations of the mean's coefficients, vague: 1, x, x² in octaves.
MEAN_SDS = (5.0, 2.0, 2.0)


@dataclass(frozen=True)
class Curve:
    """Posterior of one batch size's loss curve.

    Attributes:
        octaves: [G] grid of log2 LR, from the smallest to the largest LR that was tried and fitted.
        draws: [D, G] posterior curves of the log loss.
        reaches_low, reaches_high: whether the grid's end is the end of what was tried (and not of the window).
    """

    octaves: np.ndarray
    draws: np.ndarray
    reaches_low: bool
    reaches_high: bool

    def argmins(self) -> np.ndarray:
        """[D] log2 of the best LR in each draw."""
        return self.octaves[self.draws.argmin(axis=1)]

    def at(self, octaves: np.ndarray) -> np.ndarray:
        """[D] log loss of draw d at `octaves[d]`; held constant beyond the grid's ends."""
        position = np.clip((octaves - self.octaves[0]) / GRID, 0, len(self.octaves) - 1)
        left = np.minimum(position.astype(int), len(self.octaves) - 2)
        share = position - left
        rows = np.arange(len(self.draws))
        return (1 - share) * self.draws[rows, left] + share * self.draws[rows, left + 1]

    def censored(self) -> str | None:
        """`low` or `high` where the minimum may lie beyond what was tried, else None."""
        where = self.draws.argmin(axis=1)
        if self.reaches_low and np.mean(where == 0) > CENSORED_SHARE:
            return "low"
        if self.reaches_high and np.mean(where == len(self.octaves) - 1) > CENSORED_SHARE:
            return "high"
        return None


def fit_curve(runs: Sequence[Run], rng: np.random.Generator) -> Curve | None:
    """Fit the curve of one batch size to its admissible runs, or None where there are too few.

    Args:
        runs: usable ones, below the lowest LR that failed.
        rng: draws the curves.
    """
    if len(runs) < FEWEST_RUNS:
        return None
    x_all = np.log2([run.lr for run in runs])
    values = np.array([run.value for run in runs])
    if not (values > 0).any():
        return None
    # An error of exactly zero has no logarithm; half the smallest one there was stands in for it.
    y_all = np.log(np.maximum(values, 0.5 * values[values > 0].min()))
    best = best_place(x_all, y_all)
    lowest = place_mean(x_all, y_all, best)
    wall = np.min(x_all[(x_all > best) & (y_all > lowest + np.log(WALL))], initial=np.inf)
    near = np.abs(x_all - best) <= WINDOW
    x = x_all[near]
    y = np.where(x >= wall, np.minimum(y_all[near], lowest + np.log(AT_WALL)), y_all[near])
    if len(x) < FEWEST_RUNS or len(np.unique(np.round(x * 4))) < FEWEST_PLACES:
        return None
    seeds = np.array([hash(run.seed) for run in runs])[near]
    low, high = x.min(), x.max()
    grid = low + GRID * np.arange(int((high - low) / GRID + 1e-9) + 1)
    draws = _posterior_draws(x - best, y - y.mean(), seeds, grid - best, rng) + y.mean()
    return Curve(grid, draws, bool(low == x_all.min()), bool(high == x_all.max()))


def best_place(x: np.ndarray, y: np.ndarray) -> float:
    """The quarter of an octave with the lowest mean of `y`."""
    places = np.unique(np.round(x * 4) / 4)
    return float(places[np.argmin([place_mean(x, y, place) for place in places])])


def place_mean(x: np.ndarray, y: np.ndarray, place: float) -> float:
    """Mean of `y` over the quarter of an octave around `place`."""
    return float(y[np.round(x * 4) / 4 == place].mean())


def _posterior_draws(
    x: np.ndarray, y: np.ndarray, seeds: np.ndarray, grid: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """[DRAWS, G] curves, each from hyperparameters drawn by their likelihood."""
    settings = list(product(LENGTHS, AMPLITUDES, SEED_SDS, NOISE_SDS))
    same_seed = seeds[:, None] == seeds[None, :]
    identity = np.eye(len(x))
    curve = {
        (length, amplitude): _covariance(x, x, length, amplitude) for length, amplitude in product(LENGTHS, AMPLITUDES)
    }
    covariances = np.stack(
        [
            curve[length, amplitude] + seed**2 * same_seed + noise**2 * identity
            for length, amplitude, seed, noise in settings
        ]
    )
    factors = np.linalg.cholesky(covariances)
    whitened = np.linalg.solve(factors, np.broadcast_to(y[:, None], (len(settings), len(y), 1)))[..., 0]
    log_likelihood = -0.5 * (whitened**2).sum(1) - np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(1)
    weights = np.exp(log_likelihood - log_likelihood.max())
    counts = rng.multinomial(DRAWS, weights / weights.sum())
    draws = []
    for index in np.flatnonzero(counts):
        length, amplitude, _, _ = settings[index]
        cross = _covariance(grid, x, length, amplitude)
        solved = np.linalg.solve(covariances[index], np.column_stack([y, cross.T]))
        mean = cross @ solved[:, 0]
        covariance = _covariance(grid, grid, length, amplitude) - cross @ solved[:, 1:]
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        root = vectors * np.sqrt(np.clip(values, 0, None))
        draws.append(mean + rng.standard_normal((counts[index], len(grid))) @ root.T)
    return np.concatenate(draws)[rng.permutation(DRAWS)]


def _covariance(a: np.ndarray, b: np.ndarray, length: float, amplitude: float) -> np.ndarray:
    """Prior covariance of the curve at octaves `a` and `b`: the quadratic mean's, and the process's."""
    mean = sum(sd**2 * np.outer(a**power, b**power) for power, sd in enumerate(MEAN_SDS))
    return mean + amplitude**2 * np.exp(-0.5 * ((a[:, None] - b[None, :]) / length) ** 2)
