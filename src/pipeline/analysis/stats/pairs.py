"""Differences between two LRs: fresh seeds in pairs, and published means.

The LR that looks best in a search is partly chosen for its noise, so the runs that chose it can't also judge it. Fresh
seeds can. The same seeds run at both LRs, so that what a seed changes at both cancels in the difference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.analysis.runs import CONFIRM, Run, published_means
from pipeline.recipe.statuses import CUT_SHORT, RAISED

# Two LRs within this many octaves are the same LR: writing it as text has rounded one of them.
SAME_LR_OCTAVES = 1e-3
# A run that failed counts as a loss of so many times the best one: a failure costs, and one of many decides nothing.
FAILED_LOSS = 3.0

# By LR: the value of each fresh seed that has ended there; NaN where an error ended it.
FreshSeeds = Mapping[float, Mapping[int, float]]


@dataclass(frozen=True)
class Comparison:
    """Difference of the objective between an LR and another: a paired t test, or Welch's of published means.

    Model: the differences of pairs (or the runs behind each mean) are independent and normal.

    Attributes:
        mean: the difference; above 0 if the LR is worse. Of log losses if `is_log`.
        error, freedom: its standard error, and the degrees of freedom of Student's t.
        seeds: the number of pairs, or of runs behind the mean.
        loss, other_loss: mean objective at the LR, and at the other.
        is_log: whether the differences are of logarithms; a margin in the objective's unit is converted.
        alternatives: from how many means the best was chosen with the values that are tested here; 1 if by other runs.
    """

    mean: float
    error: float
    freedom: float
    seeds: int
    loss: float
    other_loss: float
    is_log: bool = False
    alternatives: int = 1

    def regret(self, level: float) -> tuple[float, float, float]:
        """Return the difference in the objective's unit, with one-sided bounds, each at significance `level`."""
        half = float(stats.t.ppf(1 - level, self.freedom)) * self.error
        ends = (self.mean, self.mean - half, self.mean + half)
        # With two pairs an end may be so far out that exp would overflow.
        return tuple(self.other_loss * math.expm1(min(end, 50.0)) if self.is_log else end for end in ends)  # type: ignore[return-value]

    def p_value_above(self, margin: float) -> float:
        """One-sided p-value of the hypothesis that the difference is at most `margin`; small if it is above.

        Of several equally good LRs, the one that measured lowest looks too good: Bonferroni's correction allows for it.
        """
        return min(1.0, self.alternatives * self._tail(self.mean - self._own_unit(margin)))

    def p_value_below(self, margin: float) -> float:
        """One-sided p-value of the hypothesis that the difference is at least `margin`; small if it is below."""
        return self._tail(self._own_unit(margin) - self.mean)

    def _own_unit(self, margin: float) -> float:
        return math.log1p(margin / self.other_loss) if self.is_log else margin

    def _tail(self, excess: float) -> float:
        """Probability of a mean that exceeds the true difference by `excess` or more."""
        if self.error == 0:
            # All differences are equal, as counts of steps may be, so t is undefined: use the sign test.
            return 0.5**self.seeds if excess > 0 else 1.0
        return float(stats.t.sf(excess / self.error, self.freedom))


def fresh_seeds(runs: Sequence[Run], best_value: float | None) -> FreshSeeds:
    """Return the value of each fresh seed at each LR, where its run has ended.

    A run that failed, or missed its target, counts as `FAILED_LOSS` times `best_value`, the search's best loss: a
    number that later seeds don't change.
    """
    confirm = [run for run in runs if run.phase == CONFIRM and run.seed is not None]
    bad = math.nan if best_value is None else FAILED_LOSS * best_value
    found: dict[float, dict[int, float]] = {}
    for run in confirm:
        lr = next((known for known in found if same_lr(known, run.lr)), run.lr)
        if run.usable:
            value = run.value
        elif run.failed or run.status == "missed":
            value = bad
        elif run.status in CUT_SHORT and run.status != RAISED:
            continue  # it will run again
        else:
            value = math.nan
        found.setdefault(lr, {})[run.seed] = value  # type: ignore[index]
    return found


def same_lr(lr: float, other: float, octaves: float = SAME_LR_OCTAVES) -> bool:
    """Whether two LRs are equal, apart from rounding in text, or within so many octaves."""
    return abs(math.log2(lr / other)) < octaves


def seeds_at(fresh: FreshSeeds, lr: float) -> Mapping[int, float]:
    """Return the values of the fresh seeds at an LR; empty where none ran."""
    return next((seeds for known, seeds in fresh.items() if same_lr(known, lr)), {})


def compare_pairs(there: Mapping[int, float], other: Mapping[int, float], pairs: int) -> Comparison | None:
    """Compare two LRs by the first `pairs` seeds, in their order, that have ended at both.

    Losses differ in proportion, so their logarithms are compared; plain values where one of them isn't positive.
    """
    seeds = sorted(there.keys() & other.keys())[:pairs]
    values = np.array([(there[seed], other[seed]) for seed in seeds]).reshape(-1, 2)
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) < 2:
        return None
    is_log = bool((values > 0).all())
    scaled = np.log(values) if is_log else values
    differences = scaled[:, 0] - scaled[:, 1]
    error = float(differences.std(ddof=1)) / math.sqrt(len(values))
    loss, other_loss = values.mean(axis=0)
    return Comparison(
        float(differences.mean()), error, len(values) - 1, len(values), float(loss), float(other_loss), is_log
    )


def compare_published(runs: Sequence[Run], lr: float) -> Comparison | None:
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
    loss = here[0].value
    return Comparison(mean, math.sqrt(sum(variances)), freedom, here[0].n or 0, loss, loss - mean, False, len(others))
