"""A pruner that can't bias the best learning rate (LR): it ends only runs that lie far from it."""

import math

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pipeline.recipe.statuses import FAILED
from pipeline.search.sampler import bin_by_lr

# With fewer finished runs than this, too little is known to end another run.
MIN_FINISHED = 4


class FarPruner(BasePruner):
    """End a run whose LR is `octaves` or more from the best one, if it also looks worse after `share` of its budget.

    Stock pruners compare runs at the same epoch, but early epochs prefer other LRs than the last one: after one
    epoch of five, the LR that looks best at a large batch is octaves too high. So this pruner never ends a run
    near the best LR.

    The best LR is taken from the runs of earlier waves (a wave is the trials that the sweeper starts together), so
    that the decision doesn't depend on which of two running trials is faster.

    Args:
        octaves: smallest distance, in factors of two, between the LR of a run that may end and the best LR.
        share: share of its evaluations that every run gets, in (0, 1].
        key: name of the searched learning rate.

    Raises:
        ValueError: `octaves` below 2, or `share` out of range.
    """

    def __init__(self, octaves: float = 3.0, share: float = 0.25, key: str = "optimizer.lr") -> None:
        if octaves < 2 or not 0 < share <= 1:
            raise ValueError(
                f"FarPruner got octaves={octaves}, share={share}: give at least 2 octaves, and a share in (0, 1]."
            )
        self._octaves = octaves
        self._share = share
        self._key = key

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether `trial` should end now."""
        step, last_step = trial.last_step, trial.user_attrs.get("last_step")
        if step is None or not last_step or not self._share * last_step <= step < last_step:
            return False
        finished = [
            other
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if _wave(other) < _wave(trial)
            and self._key in other.params
            and other.user_attrs.get("status") not in FAILED
        ]
        if len(finished) < MIN_FINISHED or self._key not in trial.params:
            return False
        bins = bin_by_lr(finished, self._log2_lr).values()
        best = min(bins, key=lambda trials: float(np.mean([other.value for other in trials])))
        if abs(self._log2_lr(trial) - float(np.mean([self._log2_lr(other) for other in best]))) < self._octaves:
            return False
        values = [other.intermediate_values[step] for other in best if step in other.intermediate_values]
        # Written with `not`, so that a loss of NaN counts as worse.
        return bool(values) and not trial.intermediate_values[step] <= float(np.median(values))

    def _log2_lr(self, trial: FrozenTrial) -> float:
        return math.log2(trial.params[self._key])


def _wave(trial: FrozenTrial) -> float:
    """Return the number of the wave that a trial belongs to; infinity for one outside of the search's waves."""
    wave = trial.user_attrs.get("wave")
    return wave[0] if wave else math.inf
