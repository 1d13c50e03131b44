"""Laws for the best LR over the batch size, fitted to the best LRs by generalised least squares.

Model: log2 of the best LR = law(batch) + error, where the errors are normal with a known covariance (`optima`).

To add a law, add a formula to `LAWS`. Its `parameter` is an `exponent`, or a batch size in examples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from pipeline.analysis.stats.optima import Optima
from pipeline.analysis.stats.results import Estimate, Law

# A law is selected if its Akaike weight and the p-value of its fit are at least these.
MIN_WEIGHT, MIN_FIT_P_VALUE = 0.9, 0.05
# With fewer batch sizes, any formula with a parameter of its own fits.
MIN_OPTIMA = 3
# A batch size (noise scale, break) with a 95 % interval of so many octaves or more is not identifiable.
MAX_OCTAVES = 2.0
# Values of a law's own batch size that are tried: so many octaves beyond the batch sizes that were run, in such steps.
OCTAVES_BEYOND, OCTAVE_STEP = 6.0, 1 / 32
# Values of a law's exponent that are tried.
EXPONENTS = np.arange(-1, 3 + 1e-9, 1 / 200)
# A profile likelihood's 95 % interval is where chi² is less than this above its minimum.
CHI2_95 = float(stats.chi2.ppf(0.95, 1))


def fit_exponent(found: Optima) -> Estimate | None:
    """Estimate α of best LR ∝ batch^α with its 95 % interval; None with fewer than three batch sizes."""
    if len(found.batches) < MIN_OPTIMA:
        return None
    x = np.log2(found.batches)
    inverse = np.linalg.inv(found.covariance)
    design = np.column_stack([np.ones_like(x), x])
    covariance = np.linalg.inv(design.T @ inverse @ design)
    slope = float((covariance @ design.T @ inverse @ found.octaves)[1])
    half = float(stats.t.ppf(0.975, found.freedom)) * math.sqrt(covariance[1, 1])
    return Estimate(slope, slope - half, slope + half)


def fit_laws(found: Optima, base: int, batches: Sequence[int]) -> tuple[Law, ...]:
    """Fit all laws, each with a free LR at the base batch; the best by Akaike's criterion comes first.

    Empty with fewer than three batch sizes, and for best LRs without intervals: these don't show how well a law should
    fit. `batches` are where each law's LR is given.
    """
    if len(found.batches) < MIN_OPTIMA or math.isfinite(found.freedom):
        return ()
    laws = [_fit(rule, found, base, batches) for rule in LAWS]
    best = min(law.aic for law in laws)
    likelihoods = {law.rule: math.exp(-0.5 * (law.aic - best)) for law in laws}
    total = sum(likelihoods.values())
    ordered = sorted(laws, key=lambda law: (law.aic, law.rule))
    return tuple(replace(law, weight=likelihoods[law.rule] / total) for law in ordered)


def select_law(laws: Sequence[Law]) -> str | None:
    """Return the name of the law that the data single out, or None."""
    if laws and laws[0].weight >= MIN_WEIGHT and laws[0].fit_p_value >= MIN_FIT_P_VALUE:
        return laws[0].rule
    return None


def fit_published(optima: Optima, base: int | None) -> tuple[Estimate | None, tuple[Law, ...], str | None]:
    """Fit the exponent and the laws, from the base batch or the smallest, and select a law if one stands out."""
    batches = [int(batch) for batch in optima.batches]
    laws = fit_laws(optima, batches[0] if base is None else base, batches)
    return fit_exponent(optima), laws, select_law(laws)


@dataclass(frozen=True)
class Formula:
    """A law up to a constant: log2 of the LR, [k, n], at batch sizes [n] for values [k] of its parameter, if any."""

    octaves: Callable[[np.ndarray, np.ndarray], np.ndarray]
    parameter: str | None = None


# The sources are in `pipeline.recipe.scaling`, under the same names; the broken line is linear up to a batch size and
# constant beyond. The rule adam_sde is not here: its LR is that of sqrt.
LAWS: Mapping[str, Formula] = {
    "fixed": Formula(lambda b, p: np.zeros((1, len(b)))),
    "sqrt": Formula(lambda b, p: 0.5 * np.log2(b)[None, :]),
    "linear": Formula(lambda b, p: np.log2(b)[None, :]),
    "power": Formula(lambda b, p: p[:, None] * np.log2(b), "exponent"),
    "saturating": Formula(lambda b, p: -np.log2(1 + p[:, None] / b), "noise_scale"),
    "broken_line": Formula(lambda b, p: np.log2(np.minimum(b, p[:, None])), "break_batch"),
    "surge": Formula(lambda b, p: -np.log2(np.sqrt(p[:, None] / b) + np.sqrt(b / p[:, None])), "noise_scale"),
}


def _fit(rule: str, found: Optima, base: int, batches: Sequence[int]) -> Law:
    """Fit one law: for each value of its own parameter, the free constant has a closed form.

    The covariance is known, so Akaike's criterion has no small-sample correction. With one, laws without a parameter of
    their own would win at few batch sizes, whatever the data are.
    """
    formula = LAWS[rule]
    values = _values_to_try(formula.parameter, found.batches)
    inverse = np.linalg.inv(found.covariance)
    ones = np.ones(len(found.batches))
    weight = ones @ inverse @ ones
    rest = found.octaves - formula.octaves(found.batches, values)
    constants = rest @ inverse @ ones / weight
    residuals = rest - constants[:, None]
    chi2 = np.einsum("kn,nm,km->k", residuals, inverse, residuals)
    best = int(chi2.argmin())
    inside = chi2 <= chi2[best] + CHI2_95
    half = np.sqrt(np.maximum(chi2[best] + CHI2_95 - chi2[inside], 0) / weight)
    at_base = constants + formula.octaves(np.array([float(base)]), values)[:, 0]
    ends = (at_base[best], (at_base[inside] - half).min(), (at_base[inside] + half).max())
    parameters = {"lr_at_base": Estimate(*(float(2.0**end) for end in ends))}
    note = ""
    if formula.parameter is not None:
        parameters[formula.parameter] = estimate = _profile_interval(values, inside, best)
        if formula.parameter != "exponent" and not estimate.high < estimate.low * 2**MAX_OCTAVES:
            note = "not identifiable"
    aic = float(chi2[best]) + 2 * len(parameters)
    fit_p_value = float(stats.chi2.sf(chi2[best], len(found.batches) - len(parameters)))
    lrs = 2.0 ** (constants[best] + formula.octaves(np.array(batches, dtype=float), values[best : best + 1])[0])
    return Law(rule, parameters, aic, 0.0, fit_p_value, tuple(float(lr) for lr in lrs), note)


def _values_to_try(parameter: str | None, batches: np.ndarray) -> np.ndarray:
    """Grid of a law's own parameter; a single unused value where it has none."""
    if parameter is None:
        return np.zeros(1)
    if parameter == "exponent":
        return EXPONENTS
    low, high = np.log2(batches.min()) - OCTAVES_BEYOND, np.log2(batches.max()) + OCTAVES_BEYOND
    return np.asarray(2.0 ** np.arange(low, high + OCTAVE_STEP, OCTAVE_STEP))


def _profile_interval(values: np.ndarray, inside: np.ndarray, best: int) -> Estimate:
    """The profile likelihood's interval; an end that reaches the end of the grid is infinite, or zero."""
    first, last = np.flatnonzero(inside)[[0, -1]]
    no_bound = -math.inf if values[0] < 0 else 0.0
    low = no_bound if first == 0 else float(values[first])
    high = math.inf if last == len(values) - 1 else float(values[last])
    return Estimate(float(values[best]), low, high)
