"""Posterior draws of a loss curve: a Gaussian process over log LR, with an offset and a slope for each seed.

Model: y = quadratic in x + smooth deviation(x) + offset and slope of the seed + noise, where y is log loss and x is
log2 LR, in octaves (factors of two), both centred. The deviation has a squared-exponential covariance. The length
scale and all standard deviations are averaged over a grid, weighted by their marginal likelihood. Assumptions: the
noise is normal with the same standard deviation at every x; seeds are a random sample.

The process is written in a basis (the leading eigenfunctions of its covariance), and the seeds' effects are integrated
out in closed form, so that the work grows linearly with the number of runs (Rasmussen & Williams 2006, Gaussian
Processes for Machine Learning, eqs. 2.11 and 2.12 and section 2.7).
"""

import functools
from itertools import product

import numpy as np

# The basis covers this many octaves on either side of x = 0.
WINDOW = 2.5
DRAWS = 2000
# Grid of hyperparameters: the length scale in octaves; standard deviations in log loss (the slope's per octave).
# Longer length scales and smaller amplitudes are not in it: with them, intervals on skewed curves were too narrow.
LENGTHS = (0.5, 1.0)
AMPLITUDES = (0.06, 0.2, 0.6)
SEED_OFFSET_SDS = (0.003, 0.02, 0.06, 0.2)
SEED_SLOPE_SDS = (0.0, 0.01, 0.04)
NOISE_SDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
# If the largest noise has more than this share of the likelihood, the noise may be larger still: no curve is given.
MAX_SHARE_OF_LARGEST_NOISE = 0.5
# Prior standard deviations of the quadratic's coefficients of 1, x and x²: wide.
MEAN_SDS = (5.0, 2.0, 2.0)


def draw_curves(
    x: np.ndarray, y: np.ndarray, seeds: np.ndarray, counts: np.ndarray, grid: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """Draw posterior curves, each with hyperparameters drawn by their marginal likelihood.

    Given the hyperparameters, a curve is basis · weights with a normal prior on the weights, so that their posterior is
    normal too.

    Args:
        x, y: [n] octaves from the best LR, and log loss minus its mean.
        seeds: [n] index of each run's seed.
        counts: [n] how many runs a row is the mean of.
        grid: [G] octaves from the best LR at which the curves are drawn.

    Returns:
        [DRAWS, G] curves; None where the data set no upper bound on the noise.
    """
    settings = list(product(SEED_OFFSET_SDS, SEED_SLOPE_SDS, NOISE_SDS))
    log_likelihoods, whites, factors, scales, bases = [], [], [], [], []
    for length in LENGTHS:
        basis = _basis(x, length)
        precision, projection, rest = _integrate_out_seeds(basis, x, y, seeds, counts, np.array(settings))
        for amplitude in AMPLITUDES:
            scale = np.concatenate([MEAN_SDS, np.full(basis.shape[1] - len(MEAN_SDS), amplitude)])
            posterior_precision = np.eye(len(scale)) + scale[:, None] * precision * scale
            factor = np.linalg.cholesky(posterior_precision)
            white = np.linalg.solve(factor, (projection * scale)[:, :, None])[:, :, 0]
            log_determinant = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1)
            log_likelihoods.append(rest + 0.5 * (white**2).sum(1) - log_determinant)
            whites.append(white)
            factors.append(factor)
            scales.append(scale)
            bases.append(_basis(grid, length))
    log_likelihood = np.stack(log_likelihoods)
    likelihood = np.exp(log_likelihood - log_likelihood.max())
    is_largest_noise = np.array([noise == NOISE_SDS[-1] for _, _, noise in settings])
    if likelihood[:, is_largest_noise].sum() > MAX_SHARE_OF_LARGEST_NOISE * likelihood.sum():
        return None
    chosen = rng.choice(likelihood.size, DRAWS, p=(likelihood / likelihood.sum()).ravel())
    draws = np.empty((DRAWS, len(grid)))
    for group in range(len(scales)):
        rows = np.flatnonzero(chosen // len(settings) == group)
        # Few settings have a share of the likelihood worth a draw: only their factors are inverted.
        drawn, setting = np.unique(chosen[rows] % len(settings), return_inverse=True)
        noise = rng.standard_normal((len(rows), len(scales[group])))
        # The posterior covariance of weights / scale is rootᵀ root, its mean rootᵀ white.
        roots, white = np.linalg.inv(factors[group][drawn]), whites[group][drawn]
        weights = np.empty_like(noise)
        for place, root in enumerate(roots):
            here = setting == place
            weights[here] = (white[place] + noise[here]) @ root
        draws[rows] = (weights * scales[group]) @ bases[group].T
    return draws


def _integrate_out_seeds(
    basis: np.ndarray, x: np.ndarray, y: np.ndarray, seeds: np.ndarray, counts: np.ndarray, settings: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the likelihood of the basis weights, without the seeds' offsets and slopes, for K settings.

    The runs of one seed have the covariance V = σ²/counts + Z D Zᵀ, with Z = (1, x) and D = diag(offset sd²,
    slope sd²). By the matrix inversion lemma, V⁻¹ needs sums over each seed's runs only.

    Args:
        basis: [n, m]; the other arrays are as in `draw_curves`.
        settings: [K, 3] standard deviations of the seeds' offset and slope, and of the noise.

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
    effects = np.zeros((len(settings), 1, 2, 2))  # D / σ²
    effects[:, 0, 0, 0] = settings[:, 0] ** 2 / noise
    effects[:, 0, 1, 1] = settings[:, 1] ** 2 / noise
    inner = np.eye(2) + outer @ effects
    middle = effects @ np.linalg.inv(inner)
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
    """Nodes across the window, and the matrix from the kernel at them to its eigenfunctions (Nyström's method)."""
    # The best bin is the centre of the window and is rounded to a quarter of an octave: hence the extra 0.1.
    nodes = np.linspace(-WINDOW - 0.1, WINDOW + 0.1, 61)
    values, vectors = np.linalg.eigh(np.exp(-0.5 * ((nodes[:, None] - nodes) / length) ** 2))
    kept = values > 1e-6 * values.max()
    return nodes, vectors[:, kept] / np.sqrt(values[kept])
