"""The loss curve of one batch size: a Gaussian process over log LR, and the posterior of its minimum.

The curve is fitted to the log loss near the best, with a quadratic mean, an offset and a tilt for each seed, and
hyperparameters averaged over their likelihood; the position of the minimum is read off posterior curves. Curves
are no parabolas (steep on the left, a wall on the right), which is why no parabola is fitted: its interval would
be wrong however many seeds there are.

The process is written in a basis (its kernel's leading eigenfunctions), and the seeds' effects are integrated out
in closed form, so that the work grows with the number of runs and no faster (Rasmussen & Williams 2006, Gaussian
Processes for Machine Learning, eqs. 2.11 and 2.12 and section 2.7).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from pipeline.analysis.runs import Run

# Octaves (factors of two in LR) either side of the best that enter the fit: further out the curve is another.
WINDOW = 2.5
# To the right of the best, a run this many times as bad stands at the wall: it barely survived. From the lowest such LR
# on no loss counts as more: a smooth curve through a run that is far worse than its neighbour would ripple. (Leaving
# these runs out lost the upward slope; holding them at half of that flattened steep curves, and moved their minimum.)
WALL = 3.0
# Spacing of the grid on which curves are drawn, in octaves: a tenth of the usual interval.
GRID = 1 / 16
DRAWS = 2000
# Share of the draws at an end of what was tried above which the minimum counts as not found.
CENSORED_SHARE = 0.10
# The fewest places (LRs a quarter of an octave apart) and runs that a curve can be fitted to.
FEWEST_PLACES, FEWEST_RUNS = 4, 5
# Hyperparameters: length in octaves; the rest in units of log loss (the tilt in log loss an octave).
# Neither very long nor very small lengths and amplitudes: with those in, intervals on skewed curves were too narrow.
LENGTHS = (0.5, 1.0)
AMPLITUDES = (0.06, 0.2, 0.6)
SEED_SDS = (0.003, 0.02, 0.06, 0.2)
TILT_SDS = (0.0, 0.01, 0.04)
NOISE_SDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
# Share of the likelihood at the largest noise above which there is none: what the noise is then isn't known.
TOO_NOISY = 0.5
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

    def at_best(self) -> np.ndarray:
        """[D] log loss at the median best LR.

        At one LR: each draw's own minimum is the luckiest point of a curve that is uncertain everywhere, and too low.
        """
        return self.at(np.full(len(self.draws), np.median(self.argmins())))

    def at(self, octaves: np.ndarray) -> np.ndarray:
        """[D] log loss of draw d at `octaves[d]`; held constant beyond the grid's ends."""
        position = np.clip((octaves - self.octaves[0]) / GRID, 0, len(self.octaves) - 1)
        left = np.minimum(position.astype(int), len(self.octaves) - 2)
        share = position - left
        rows = np.arange(len(self.draws))
        return (1 - share) * self.draws[rows, left] + share * self.draws[rows, left + 1]

    def interval(self) -> tuple[float, float, float]:
        """log2 of the best LR, and the ends of its 95 % interval; a minimum is known to half a step of the grid."""
        middle, low, high = np.quantile(self.argmins(), (0.5, 0.025, 0.975))
        return float(middle), float(low - GRID / 2), float(high + GRID / 2)

    def below(self, octave: float) -> "Curve | None":
        """The same curve where LRs from `octave` on are ruled out; None where nothing is left to choose from."""
        kept = self.octaves < octave
        if kept.sum() < 2:
            return None
        return Curve(self.octaves[kept], self.draws[:, kept], self.reaches_low, self.reaches_high or not kept.all())

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
        runs: usable ones, below the lowest LR that failed; a row that is a mean of n runs counts as n.
        rng: draws the curves.
    """
    if len(runs) < FEWEST_RUNS:
        return None
    x_all = np.log2([run.lr for run in runs])
    values = np.array([run.value for run in runs])
    if not (values > 0).any() or (values < 0).any():
        return None
    # An error of exactly zero has no logarithm; half the smallest one there was stands in for it.
    y_all = np.log(np.maximum(values, 0.5 * values[values > 0].min()))
    best = best_place(x_all, y_all)
    lowest = place_mean(x_all, y_all, best)
    wall = np.min(x_all[(x_all > best) & (y_all > lowest + np.log(WALL))], initial=np.inf)
    near = np.abs(x_all - best) <= WINDOW
    x = x_all[near]
    y = np.where(x >= wall, np.minimum(y_all[near], lowest + np.log(WALL)), y_all[near])
    if len(x) < FEWEST_RUNS or len(np.unique(np.round(x * 4))) < FEWEST_PLACES:
        return None
    seeds = np.unique([str(run.seed) for run in runs], return_inverse=True)[1][near]
    counts = np.array([run.n or 1 for run in runs], dtype=float)[near]
    low, high = x.min(), x.max()
    grid = low + GRID * np.arange(int((high - low) / GRID + 1e-9) + 1)
    draws = _posterior_draws(x - best, y - y.mean(), seeds, counts, grid - best, rng)
    if draws is None:
        return None
    return Curve(grid, draws + y.mean(), bool(low == x_all.min()), bool(high == x_all.max()))


def best_place(x: np.ndarray, y: np.ndarray) -> float:
    """The quarter of an octave with the lowest mean of `y`."""
    places, where = np.unique(np.round(x * 4) / 4, return_inverse=True)
    return float(places[np.argmin(np.bincount(where, y) / np.bincount(where))])


def place_mean(x: np.ndarray, y: np.ndarray, place: float) -> float:
    """Mean of `y` over the quarter of an octave around `place`."""
    return float(y[np.round(x * 4) / 4 == place].mean())


def _posterior_draws(
    x: np.ndarray, y: np.ndarray, seeds: np.ndarray, counts: np.ndarray, grid: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """[DRAWS, G] curves, each from hyperparameters drawn by their likelihood; None where the noise has no bound."""
    settings = list(product(SEED_SDS, TILT_SDS, NOISE_SDS))
    log_likelihoods, means, roots, scales, bases = [], [], [], [], []
    for length in LENGTHS:
        basis = _basis(x, length)
        precision, projection, rest = _without_seeds(basis, x, y, seeds, counts, np.array(settings))
        for amplitude in AMPLITUDES:
            scale = np.concatenate([MEAN_SDS, np.full(basis.shape[1] - len(MEAN_SDS), amplitude)])
            posterior = np.eye(len(scale)) + scale[:, None] * precision * scale
            factor = np.linalg.cholesky(posterior)
            root = np.linalg.inv(factor)  # posterior covariance of the weights: rootᵀ root
            white = np.einsum("kij,kj->ki", root, projection * scale)
            log_determinant = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1)
            log_likelihoods.append(rest + 0.5 * (white**2).sum(1) - log_determinant)
            means.append(np.einsum("kij,ki->kj", root, white))
            roots.append(root)
            scales.append(scale)
            bases.append(_basis(grid, length))
    log_likelihood = np.stack(log_likelihoods)
    weights = np.exp(log_likelihood - log_likelihood.max())
    loudest = np.array([noise == NOISE_SDS[-1] for _, _, noise in settings])
    if weights[:, loudest].sum() > TOO_NOISY * weights.sum():
        return None
    chosen = rng.choice(weights.size, DRAWS, p=(weights / weights.sum()).ravel())
    draws = np.empty((DRAWS, len(grid)))
    for group in range(len(scales)):
        rows = np.flatnonzero(chosen // len(settings) == group)
        setting = chosen[rows] % len(settings)
        noise = rng.standard_normal((len(rows), len(scales[group])))
        weight = means[group][setting] + np.einsum("dij,di->dj", roots[group][setting], noise)
        draws[rows] = (weight * scales[group]) @ bases[group].T
    return draws


def _without_seeds(
    basis: np.ndarray, x: np.ndarray, y: np.ndarray, seeds: np.ndarray, counts: np.ndarray, settings: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the data say of the weights, with the seeds' offsets and tilts integrated out, for K settings.

    Runs of one seed share the covariance V = σ²/counts + Z D Zᵀ, Z = (1, x), D = diag(seed sd², tilt sd²). By the
    matrix inversion lemma V⁻¹ needs sums over each seed's runs only.

    Returns:
        BᵀV⁻¹B [K, m, m], BᵀV⁻¹y [K, m], and log N(y; 0, V) [K] without its constants.
    """
    columns = np.column_stack([np.ones_like(x), x])
    number = seeds.max() + 1
    outer = np.zeros((number, 2, 2))
    with_basis = np.zeros((number, 2, basis.shape[1]))
    with_y = np.zeros((number, 2))
    np.add.at(outer, seeds, counts[:, None, None] * columns[:, :, None] * columns[:, None, :])
    np.add.at(with_basis, seeds, counts[:, None, None] * columns[:, :, None] * basis[:, None, :])
    np.add.at(with_y, seeds, counts[:, None] * columns * y[:, None])
    noise = settings[:, 2] ** 2
    spread = np.zeros((len(settings), 1, 2, 2))  # D / σ²
    spread[:, 0, 0, 0] = settings[:, 0] ** 2 / noise
    spread[:, 0, 1, 1] = settings[:, 1] ** 2 / noise
    inner = np.eye(2) + outer @ spread
    middle = spread @ np.linalg.inv(inner)
    weighted = counts[:, None] * basis
    lost = np.einsum("ksab,sbm->ksam", middle, with_basis)
    precision = weighted.T @ basis - np.einsum("sam,ksan->kmn", with_basis, lost)
    projection = weighted.T @ y - np.einsum("sa,ksam->km", with_y, lost)
    squares = (counts * y**2).sum() - np.einsum("sa,ksab,sb->k", with_y, middle, with_y)
    log_determinant = len(y) * np.log(noise) + np.log(np.linalg.det(inner)).sum(1)
    rest = -0.5 * (squares / noise + log_determinant)
    return precision / noise[:, None, None], projection / noise[:, None], rest


def _basis(x: np.ndarray, length: float) -> np.ndarray:
    """[n, m]: 1, x, x², and the leading eigenfunctions of a squared-exponential kernel, at octaves `x`."""
    nodes, transform = _eigenfunctions(length)
    kernel = np.exp(-0.5 * ((x[:, None] - nodes) / length) ** 2)
    return np.column_stack([x[:, None] ** np.arange(len(MEAN_SDS)), kernel @ transform])


@functools.cache
def _eigenfunctions(length: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes across the window, and what turns the kernel at them into its eigenfunctions (Nyström's method)."""
    # The best place is rounded to a quarter of an octave, and the window goes either side of it.
    nodes = np.linspace(-WINDOW - 0.1, WINDOW + 0.1, 61)
    values, vectors = np.linalg.eigh(np.exp(-0.5 * ((nodes[:, None] - nodes) / length) ** 2))
    kept = values > 1e-6 * values.max()
    return nodes, vectors[:, kept] / np.sqrt(values[kept])
