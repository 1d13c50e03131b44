"""Compare Pocock's looks with a confidence sequence, which may be read after every pair: `python benchmarks/looks.py`.

One verdict among 21, at a margin of 0.68 standard deviations of a pair's difference (10 % of the loss, with pairs that
differ by 14 %). The confidence sequence is a one-sided normal mixture (Howard et al. 2021, Annals of Statistics
49:1055, proposition 6), with Student's t in place of the normal for the estimated standard deviation.
"""

import argparse

import numpy as np
from scipy import stats

from pipeline.analysis.stats.sequential import nominal_level
from pipeline.analysis.stats.verdict import LEVEL

LOOKS, VERDICTS, MARGIN = (12, 24, 48, 96), 21, 0.68
# The mixture's variance is best at about so many pairs.
BEST_AT = 24


def mixture_half_width(pairs: np.ndarray, level: float) -> np.ndarray:
    """Return the half width of the confidence sequence after so many pairs, in standard deviations of a pair."""
    width = 2 * np.log(1 / (2 * LEVEL))
    rho = BEST_AT / (width + np.log(1 + width))
    z = np.sqrt(2 * (pairs + rho) / pairs * np.log(np.sqrt((pairs + rho) / rho) / (2 * level) + 1))
    return np.asarray(stats.t.isf(stats.norm.sf(z), pairs - 1) / np.sqrt(pairs))


def pocock_half_width(pairs: np.ndarray, level: float) -> np.ndarray:
    """Return the half width at each look."""
    return np.asarray(stats.t.isf(nominal_level(LOOKS, level), pairs - 1) / np.sqrt(pairs))


def main() -> None:
    """Print, for several true differences, how often each method decides and after how many pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=20_000)
    studies = parser.parse_args().studies
    rng = np.random.default_rng(0)
    methods = {
        "Pocock's looks": (np.array(LOOKS), pocock_half_width),
        "mixture, same looks": (np.array(LOOKS), mixture_half_width),
        "mixture, every pair": (np.arange(LOOKS[0], LOOKS[-1] + 1), mixture_half_width),
    }
    for margins in (0, 0.5, 1, 2, 3):
        differences = rng.standard_normal((studies, LOOKS[-1])) + margins * MARGIN
        counts = np.arange(1, LOOKS[-1] + 1)
        means = differences.cumsum(axis=1) / counts
        squares = (differences**2).cumsum(axis=1) / counts - means**2
        sds = np.sqrt(squares * counts / np.maximum(counts - 1, 1))
        for name, (pairs, half_width) in methods.items():
            mean, sd = means[:, pairs - 1], sds[:, pairs - 1]
            holds = mean + half_width(pairs, LEVEL) * sd < MARGIN
            breaks = mean - half_width(pairs, LEVEL / VERDICTS) * sd > MARGIN
            decided = holds | breaks
            first = decided.argmax(axis=1)
            is_decided = decided.any(axis=1)
            rows = np.arange(studies)
            used = np.where(is_decided, pairs[first], LOOKS[-1]).mean()
            shares = [np.mean(is_decided & found[rows, first]) for found in (holds, breaks)]
            print(
                f"{margins:3g} margins, {name:20}: holds {shares[0]:6.1%}, breaks {shares[1]:6.2%}, {used:4.1f} pairs"
            )


if __name__ == "__main__":
    main()
