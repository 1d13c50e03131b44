"""Confirmation: after a search, fresh seeds run chosen LRs and the best one, and are compared in pairs.

The LR that looks best in a search is partly chosen for its noise, so the runs that chose it can't also judge it. Fresh
seeds can. The same seeds run at both LRs, so that what a seed changes at both cancels in the difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.analysis.runs import CONFIRM, Run, published_means
from pipeline.analysis.stats.batch_fit import fit_batches
from pipeline.analysis.stats.results import JUDGED_RULES

# Two LRs within this many octaves are the same LR: writing it as text has rounded one of them.
SAME_LR_OCTAVES = 1e-3
# Above this many seeds in all, the number needed is not given.
MAX_SEEDS = 1000


@dataclass(frozen=True)
class Comparison:
    """Difference of the mean objective between an LR and the best one: a paired t test, or Welch's of published means.

    Model: the differences of pairs (or the runs behind each mean) are independent and normal.

    Attributes:
        mean: the difference; above 0 if the LR is worse.
        error, freedom: its standard error, and the degrees of freedom of Student's t.
        seeds: the number of pairs, or of runs behind the mean.
        loss: mean objective at the LR.
        alternatives: from how many means the best was chosen with the values that are tested here; 1 if by other runs.
    """

    mean: float
    error: float
    freedom: float
    seeds: int
    loss: float
    alternatives: int = 1

    @property
    def sd(self) -> float:
        """Standard deviation of one pair's difference."""
        return self.error * math.sqrt(self.seeds)

    def bounds(self, level: float) -> tuple[float, float]:
        """Lower and upper one-sided confidence bound of the difference, each at significance `level`."""
        half = float(stats.t.ppf(1 - level, self.freedom)) * self.error
        return self.mean - half, self.mean + half

    def p_value_above(self, margin: float) -> float:
        """One-sided p-value of the hypothesis that the difference is at most `margin`; small if it is above.

        Of several equally good LRs, the one that measured lowest looks too good: Bonferroni's correction allows for it.
        """
        return min(1.0, self.alternatives * self._tail(self.mean - margin))

    def p_value_below(self, margin: float) -> float:
        """One-sided p-value of the hypothesis that the difference is at least `margin`; small if it is below."""
        return self._tail(margin - self.mean)

    def _tail(self, excess: float) -> float:
        """Probability of a mean that exceeds the true difference by `excess` or more."""
        if self.error == 0:
            # All differences are equal, as counts of steps may be, so t is undefined: use the sign test.
            return 0.5**self.seeds if excess > 0 else 1.0
        return float(stats.t.sf(excess / self.error, self.freedom))

    def seeds_to_decide(self, margin: float, level: float) -> float:
        """How many seeds in all would move the bound past the margin, with this mean and sd; infinite if too many."""
        counts = np.arange(2, MAX_SEEDS + 1)
        half = stats.t.ppf(1 - level, counts - 1) * self.sd / np.sqrt(counts)
        enough = np.flatnonzero(half < abs(self.mean - margin))
        return int(counts[enough[0]]) if len(enough) else math.inf


def compare(runs: Sequence[Run], lr: float, best_lr: float) -> Comparison | None:
    """Compare `lr` with `best_lr` by published means, or by fresh seeds that ran at both; None if neither is there."""
    if published_means(runs):
        return _compare_published(runs, lr)
    if same_lr(lr, best_lr):
        return None  # fresh seeds can't compare the best LR with itself
    values, best_values = _values_by_seed(runs, lr), _values_by_seed(runs, best_lr)
    seeds = sorted(values.keys() & best_values.keys())
    if len(seeds) < 2:
        return None
    differences = np.array([values[seed] - best_values[seed] for seed in seeds])
    loss = float(np.mean([values[seed] for seed in seeds]))
    error = float(differences.std(ddof=1)) / math.sqrt(len(seeds))
    return Comparison(float(differences.mean()), error, len(seeds) - 1, len(seeds), loss)


def _values_by_seed(runs: Sequence[Run], lr: float) -> dict[int, float]:
    return {
        run.seed: run.value
        for run in runs
        if run.phase == CONFIRM and run.usable and run.seed is not None and same_lr(run.lr, lr)
    }


def same_lr(lr: float, other: float) -> bool:
    """Whether two LRs are equal, apart from rounding in text."""
    return abs(math.log2(lr / other)) < SAME_LR_OCTAVES


def _compare_published(runs: Sequence[Run], lr: float) -> Comparison | None:
    """Compare the published mean at `lr` with the best other one by Welch's t test; a negative difference counts as 0.

    A mean without a standard deviation gets the largest one in the table.
    """
    means = published_means(runs)
    here = [run for run in means if same_lr(run.lr, lr)]
    others = [run for run in means if not same_lr(run.lr, lr)]
    sds = [run.value_sd for run in means if run.value_sd is not None]
    if not here or not others or not sds:
        return None
    best = min(others, key=lambda run: run.value)
    variances, freedoms = [], []
    for run in (here[0], best):
        assert run.n is not None
        sd = max(sds) if run.value_sd is None else run.value_sd
        variances.append(sd**2 / run.n)
        freedoms.append(run.n - 1)
    # Welch-Satterthwaite equation.
    denominator = sum(part**2 / freedom for part, freedom in zip(variances, freedoms, strict=True))
    freedom = sum(variances) ** 2 / denominator if denominator > 0 else float(min(freedoms))
    mean = max(0.0, here[0].value - best.value)
    return Comparison(mean, math.sqrt(sum(variances)), freedom, here[0].n or 0, here[0].value, len(others))


def points_to_confirm(runs: Sequence[Run], base: int) -> list[tuple[int, float]]:
    """Return the (batch, LR) pairs that fresh seeds should run: the best LR and each rule's LR at each batch size.

    They follow from the search's runs alone. LRs at or above the lowest one that failed are left out, and so are batch
    sizes without a best LR. The rules start from batch size `base`.
    """
    fits = fit_batches([run for run in runs if run.phase != CONFIRM])
    results = {size: fit.result for size, fit in fits.items()}
    base_lr = results[base].best_lr if base in results else None
    if base_lr is None or len(results) < 2:
        return []
    points: list[tuple[int, float]] = []
    for size, result in results.items():
        if result.best_lr is None:
            continue
        for lr in (result.best_lr, *(base_lr * (size / base) ** exponent for exponent in JUDGED_RULES.values())):
            is_new = not any(size == of and same_lr(lr, other) for of, other in points)
            if is_new and (result.failing_lr is None or lr < result.failing_lr):
                points.append((size, lr))
    return points
