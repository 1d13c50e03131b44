"""Group-sequential tests: look at more and more pairs, and keep the error over all looks at one level.

Model: the mean of the first n differences is normal, so that the z-scores of two looks at n < m pairs have the
correlation √(n/m). Each look is a Student-t test at the same nominal level (Pocock 1977, Biometrika 64:191). Applying
the nominal level to t instead of z is accurate from about ten pairs on (Jennison & Turnbull 2000, section 4.4).
"""

import functools
import math

import numpy as np
from scipy import optimize, stats

# Points at which the density of the sum is kept from look to look, and standard deviations below zero that they cover.
POINTS, REACH = 400, 8.0


@functools.cache
def nominal_level(looks: tuple[int, ...], level: float) -> float:
    """Return the one-sided level of each look's test, so that the error over all looks is `level`.

    Args:
        looks: numbers of pairs, increasing; with one look, or none, it is `level` itself.

    >>> round(nominal_level((12, 24, 48, 96), 0.05), 4)
    0.0169
    """
    if len(looks) < 2:
        return level
    lowest, highest = stats.norm.isf(level), stats.norm.isf(level / len(looks))
    bound = optimize.brentq(lambda z: crossing_probability(looks, z) - level, lowest, highest)
    return float(stats.norm.sf(bound))


def crossing_probability(looks: tuple[int, ...], bound: float) -> float:
    """Return the probability that the z-score of a mean of zero exceeds `bound` at any look.

    The density of the sum of the pairs, where no look has crossed yet, is carried on from look to look by numerical
    integration (Armitage, McPherson & Rowe 1969, JRSS A 132:235).
    """
    places, mass = np.zeros(1), np.ones(1)
    before = 0
    for pairs in looks:
        grid = np.linspace(-REACH * math.sqrt(pairs), bound * math.sqrt(pairs), POINTS)
        density = stats.norm.pdf(grid[:, None], places, math.sqrt(pairs - before)) @ mass
        weights = np.full(POINTS, grid[1] - grid[0])
        weights[[0, -1]] /= 2
        places, mass, before = grid, density * weights, pairs
    return 1.0 - float(mass.sum())
