"""Laws for the best LR over the batch size, fitted by generalised least squares."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from pipeline.analysis.runs import CONFIRM
from pipeline.analysis.stats.batch_fit import BatchFit
from pipeline.analysis.stats.curve import GRID, fit_curve
from pipeline.analysis.stats.results import Estimate, Law

# Below this Akaike weight no law is named; nor is one whose residuals are this unlikely, were it true.
MIN_WEIGHT, MIN_FIT_P_VALUE = 0.9, 0.05
# With fewer batch sizes a formula with a parameter of its own fits whatever there is.
FEWEST_OPTIMA = 3
# A batch size (noise scale, break) whose 95 % interval is wider than so many octaves is not identified.
WIDEST_OCTAVES = 2.0
# How far beyond the batch sizes that were run a law's own batch size is looked for, in octaves, and how finely.
BEYOND, STEP = 6.0, 1 / 32
# Groups of seeds that are left out in turn, at most; each costs a fit of every batch size.
MOST_GROUPS = 8
_CHI2 = float(stats.chi2.ppf(0.95, 1))
_EXPONENTS = np.arange(-1, 3 + 1e-9, 1 / 200)


@dataclass(frozen=True)
class Optima:
    """The best LRs of a sweep and how well they are known together.

    Attributes:
        batches: [n] batch sizes that have a best LR.
        octaves: [n] log2 of the best LR.
        covariance: [n, n] of `octaves`.
        freedom: degrees of freedom with which the covariance's scale was estimated; infinite where it is known.
    """

    batches: np.ndarray
    octaves: np.ndarray
    covariance: np.ndarray
    freedom: float = math.inf

    def only(self, keep: np.ndarray) -> "Optima":
        """Those where `keep` is true."""
        return Optima(self.batches[keep], self.octaves[keep], self.covariance[np.ix_(keep, keep)], self.freedom)


def estimate_optima(cells: Sequence[BatchFit], rng: np.random.Generator) -> Optima:
    """Best LRs, with the posteriors' variances, and correlations from leaving out the same seeds everywhere.

    Seeds are common to all batch sizes, so their luck may move several optima at once; the correlation is
    the delete-a-group jackknife's (Kott 2001), shrunk, since a correlation from G groups is known to 1/√G only.
    """
    known = [cell for cell in cells if cell.result.best_lr is not None and cell.result.curve is not None]
    draws = np.array([cell.result.curve.argmins() for cell in known]) if known else np.empty((0, 1))  # type: ignore[union-attr]
    sds = np.sqrt(draws.var(axis=1) + GRID**2 / 12)
    correlation = _shared_luck(known, rng)
    batches = np.array([cell.batch for cell in known], dtype=float)
    return Optima(batches, np.median(draws, axis=1), correlation * np.outer(sds, sds))


def _shared_luck(cells: Sequence[BatchFit], rng: np.random.Generator) -> np.ndarray:
    """[n, n] correlation of the optima through common seeds."""
    seeds = sorted({run.seed for cell in cells for run in cell.runs if run.seed is not None and run.phase != CONFIRM})
    groups = [set(seeds[start::MOST_GROUPS]) for start in range(min(len(seeds), MOST_GROUPS))]
    if len(groups) < 3 or len(cells) < 2:
        return np.eye(len(cells))
    without = np.full((len(groups), len(cells)), np.nan)
    for row, group in enumerate(groups):
        for column, cell in enumerate(cells):
            failing = cell.result.failing_lr or math.inf
            left = [r for r in cell.runs if r.usable and r.lr < failing and r.phase != CONFIRM and r.seed not in group]
            curve = fit_curve(left, rng)
            if curve is not None:
                without[row, column] = np.median(curve.argmins())
    known = np.isfinite(without)
    means = np.where(known, without, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    moved = np.where(known, without - means, 0.0)
    size = np.sqrt((moved**2).sum(axis=0))
    with np.errstate(invalid="ignore"):
        correlation = np.nan_to_num(moved.T @ moved / np.outer(size, size))
    shrunk = correlation * (1 - 1 / math.sqrt(len(groups)))
    np.fill_diagonal(shrunk, 1.0)
    return shrunk


def fit_exponent(found: Optima) -> Estimate | None:
    """α of best LR ∝ batch^α with its 95 % interval; None with fewer than three batch sizes."""
    if len(found.batches) < FEWEST_OPTIMA:
        return None
    x = np.log2(found.batches)
    inverse = np.linalg.inv(found.covariance)
    design = np.column_stack([np.ones_like(x), x])
    covariance = np.linalg.inv(design.T @ inverse @ design)
    slope = float((covariance @ design.T @ inverse @ found.octaves)[1])
    half = float(stats.t.ppf(0.975, found.freedom)) * math.sqrt(covariance[1, 1])
    return Estimate(slope, slope - half, slope + half)


def fit_laws(found: Optima, base: int, batches: Sequence[int]) -> tuple[Law, ...]:
    """Fit all laws, each with a free LR at the base batch; the best by Akaike's criterion first.

    Empty with too few batch sizes, and where the optima came without intervals: then nothing says how well a law has
    to fit.

    Args:
        found: the best LRs.
        base: the batch size whose LR is the free parameter.
        batches: where each law's LR is given.
    """
    if len(found.batches) < FEWEST_OPTIMA or math.isfinite(found.freedom):
        return ()
    laws = [_fit(rule, found, base, batches) for rule in LAWS]
    best = min(law.aic for law in laws)
    shares = {law.rule: math.exp(-0.5 * (law.aic - best)) for law in laws}
    total = sum(shares.values())
    return tuple(
        replace(law, weight=shares[law.rule] / total) for law in sorted(laws, key=lambda law: (law.aic, law.rule))
    )


def select_law(laws: Sequence[Law]) -> str | None:
    """The law that the data single out, or None."""
    return laws[0].rule if laws and laws[0].weight >= MIN_WEIGHT and laws[0].fit_p_value >= MIN_FIT_P_VALUE else None


@dataclass(frozen=True)
class _Formula:
    """log2 of a law's LR over batch sizes B [n], up to a constant, for values [k] of its own parameter: [k, n]."""

    octaves: Callable[[np.ndarray, np.ndarray], np.ndarray]
    own: str | None = None

    @property
    def parameters(self) -> int:
        return 1 if self.own is None else 2


# Each formula has its source in `recipe.scaling`; the broken line is linear up to a batch size and flat beyond.
LAWS: Mapping[str, _Formula] = {
    "fixed": _Formula(lambda b, p: np.zeros((1, len(b)))),
    "sqrt": _Formula(lambda b, p: 0.5 * np.log2(b)[None, :]),
    "linear": _Formula(lambda b, p: np.log2(b)[None, :]),
    "power": _Formula(lambda b, p: p[:, None] * np.log2(b), "exponent"),
    "saturating": _Formula(lambda b, p: -np.log2(1 + p[:, None] / b), "noise_scale"),
    "broken_line": _Formula(lambda b, p: np.log2(np.minimum(b, p[:, None])), "break_batch"),
    "surge": _Formula(lambda b, p: -np.log2(np.sqrt(p[:, None] / b) + np.sqrt(b / p[:, None])), "noise_scale"),
}


def _fit(rule: str, found: Optima, base: int, batches: Sequence[int]) -> Law:
    formula = LAWS[rule]
    own = _candidates(formula, found.batches)
    inverse = np.linalg.inv(found.covariance)
    ones = np.ones(len(found.batches))
    weight = ones @ inverse @ ones
    # For each value of the law's own parameter the free constant has a closed form.
    rest = found.octaves - formula.octaves(found.batches, own)
    constants = rest @ inverse @ ones / weight
    residuals = rest - constants[:, None]
    chi2 = np.einsum("kn,nm,km->k", residuals, inverse, residuals)
    at_base = constants + formula.octaves(np.array([float(base)]), own)[:, 0]
    best = int(chi2.argmin())
    inside = chi2 <= chi2[best] + _CHI2
    half = np.sqrt(np.maximum(chi2[best] + _CHI2 - chi2[inside], 0) / weight)
    lr = Estimate(
        *(float(2.0**v) for v in (at_base[best], (at_base[inside] - half).min(), (at_base[inside] + half).max()))
    )
    parameters = {"lr_at_base": lr}
    note = ""
    if formula.own is not None:
        parameters[formula.own] = estimate = _interval(own, inside, best)
        wide = formula.own != "exponent" and not estimate.high < estimate.low * 2**WIDEST_OCTAVES
        note = "not identifiable" if wide else ""
    k, n = formula.parameters, len(found.batches)
    # The covariance is known, not fitted, so there is no small-sample term: with one, laws without a parameter of their
    # own would win at few batch sizes whatever the data say.
    aic = float(chi2[best]) + 2 * k
    fit_p_value = float(stats.chi2.sf(chi2[best], n - k))
    lrs = 2.0 ** (constants[best] + formula.octaves(np.array(batches, dtype=float), own[best : best + 1])[0])
    return Law(rule, parameters, aic, 0.0, fit_p_value, tuple(float(lr) for lr in lrs), note)


def _candidates(formula: _Formula, batches: np.ndarray) -> np.ndarray:
    """Values of a law's own parameter that are tried; one that means nothing where it has none."""
    if formula.own is None:
        return np.zeros(1)
    if formula.own == "exponent":
        return _EXPONENTS
    low, high = np.log2(batches.min()) - BEYOND, np.log2(batches.max()) + BEYOND
    return np.asarray(2.0 ** np.arange(low, high + STEP, STEP))


def _interval(own: np.ndarray, inside: np.ndarray, best: int) -> Estimate:
    """The profile likelihood's interval; open (infinite, or zero) where it reaches the end of what was tried."""
    first, last = np.flatnonzero(inside)[[0, -1]]
    open_low = -math.inf if own[0] < 0 else 0.0
    low = open_low if first == 0 else float(own[first])
    high = math.inf if last == len(own) - 1 else float(own[last])
    return Estimate(float(own[best]), low, high)
