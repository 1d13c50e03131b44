"""Confirmation: what fresh seeds say of chosen LRs, compared in pairs with the same seeds at the best LR."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.analysis.runs import CONFIRM, Run, published_means
from pipeline.analysis.stats.batch_fit import fit_batch
from pipeline.analysis.stats.results import JUDGED_RULES

# Two LRs this close (in octaves) are the same: they went through text.
SAME = 1e-3
# The most further seeds that are worth naming.
MAX_MORE_SEEDS = 1000


@dataclass(frozen=True)
class Comparison:
    """How much worse an LR is than the best one, measured by runs of both.

    Attributes:
        mean: difference of the mean objectives.
        error, freedom: its standard error, and the degrees of freedom of Student's t.
        seeds: how many pairs, or runs on either side, it rests on.
        loss: mean objective at the LR.
        alternatives: from how many others the best one was chosen by these same values.
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

    def bound(self, level: float, upper: bool) -> float:
        """One-sided confidence bound of the difference."""
        half = float(stats.t.ppf(1 - level, self.freedom)) * self.error
        return self.mean + half if upper else self.mean - half

    def chance_within(self, margin: float) -> float:
        """One-sided p-value of a difference above `margin`: for its being no more than that.

        The lowest of several equal means looks better than it is, so the p-value is Bonferroni's.
        """
        return min(1.0, self.alternatives * self._tail(self.mean - margin))

    def chance_beyond(self, margin: float) -> float:
        """One-sided p-value of a difference below `margin`."""
        return self._tail(margin - self.mean)

    def _tail(self, beyond: float) -> float:
        """Chance of a mean so far beyond a bound if the truth lies at the bound."""
        if self.error == 0:
            # All pairs agree to the last digit, as counts of steps may: what is left is the sign test.
            return 0.5**self.seeds if beyond > 0 else 1.0
        return float(stats.t.sf(beyond / self.error, self.freedom))

    def seeds_to_decide(self, margin: float, level: float) -> int | None:
        """How many seeds in all would put the bound on one side of the margin, were mean and sd to stay."""
        counts = np.arange(2, MAX_MORE_SEEDS + 1)
        half = stats.t.ppf(1 - level, counts - 1) * self.sd / np.sqrt(counts)
        enough = np.flatnonzero(half < abs(self.mean - margin))
        return int(counts[enough[0]]) if len(enough) else None


def compare(runs: Sequence[Run], lr: float, best_lr: float) -> Comparison | None:
    """Compare `lr` with `best_lr`: by fresh seeds at both, in pairs; by published means; else None.

    An LR is not compared with itself: how well the best one is known is the curve's to say.

    Args:
        runs: of one batch size.
    """
    if published_means(runs):
        return _compare_published(runs, lr)
    if same_lr(lr, best_lr):
        return None
    there, best = _by_seed(runs, lr), _by_seed(runs, best_lr)
    both = sorted(there.keys() & best.keys())
    if len(both) < 2:
        return None
    differences = np.array([there[seed] - best[seed] for seed in both])
    loss = float(np.mean([there[seed] for seed in both]))
    error = float(differences.std(ddof=1)) / math.sqrt(len(both))
    return Comparison(float(differences.mean()), error, len(both) - 1, len(both), loss)


def _by_seed(runs: Sequence[Run], lr: float) -> dict[int, float]:
    return {
        run.seed: run.value
        for run in runs
        if run.phase == CONFIRM and run.usable and run.seed is not None and same_lr(run.lr, lr)
    }


def same_lr(lr: float, other: float) -> bool:
    """Whether two LRs are one that went through text."""
    return abs(math.log2(lr / other)) < SAME


def _compare_published(runs: Sequence[Run], lr: float) -> Comparison | None:
    """Compare a published mean at `lr` with the best other one, by Welch's t; better than all others is no regret.

    A mean without a standard deviation gets the largest of its neighbours'.
    """
    known = [run for run in published_means(runs) if run.n is not None and run.n > 1]
    here = [run for run in known if same_lr(run.lr, lr)]
    others = [run for run in known if not same_lr(run.lr, lr)]
    sds = [run.value_sd for run in known if run.value_sd is not None]
    if not here or not others or not sds:
        return None
    best = min(others, key=lambda run: run.value)
    parts, freedoms = [], []
    for run in (here[0], best):
        assert run.n is not None
        sd = max(sds) if run.value_sd is None else run.value_sd
        parts.append(sd**2 / run.n)
        freedoms.append(run.n - 1)
    spread = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    freedom = sum(parts) ** 2 / spread if spread > 0 else float(min(freedoms))
    mean = max(0.0, here[0].value - best.value)
    return Comparison(mean, math.sqrt(sum(parts)), freedom, here[0].n or 0, here[0].value, len(others))


def points_to_confirm(runs: Sequence[Run], base: int) -> list[tuple[int, float]]:
    """(batch, LR) pairs that fresh seeds should run: each rule's LR and the best one, at each batch size.

    What is chosen follows from the search's runs alone. LRs at or above the lowest that failed are left out: what they
    do is known; and so are batch sizes without a best LR, for there is nothing to compare with.

    Args:
        runs: of one workload.
        base: the batch size that the rules start from.
    """
    searched = [run for run in runs if run.phase != CONFIRM]
    cells = {
        size: fit_batch([run for run in searched if run.batch == size]) for size in {run.batch for run in searched}
    }
    anchor = cells[base].result.best_lr if base in cells else None
    if anchor is None or len(cells) < 2:
        return []
    points = []
    for size in sorted(cells):
        result = cells[size].result
        if result.best_lr is None:
            continue
        lrs = [result.best_lr] + [anchor * (size / base) ** exponent for exponent in JUDGED_RULES.values()]
        admissible = [lr for lr in lrs if result.failing_lr is None or lr < result.failing_lr]
        points += [(size, lr) for lr in _distinct(admissible)]
    return points


def _distinct(lrs: Sequence[float]) -> list[float]:
    kept: list[float] = []
    for lr in lrs:
        if not any(same_lr(lr, other) for other in kept):
            kept.append(lr)
    return kept
