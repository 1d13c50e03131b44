"""A pruner that can't bias the best LR: it ends only runs that lie far from it."""

import math
from collections.abc import Sequence

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pipeline.search.lr_bins import bin_by_lr
from pipeline.search.sampler import FAILED

# Completed runs below which nothing is known well enough to end another for it.
FEWEST = 4


class FarPruner(BasePruner):
    """End a run whose LR is `octaves` or more from the best one, once it has had `share` of its budget.

    Stock pruners compare runs at the same epoch, and early epochs prefer other LRs than the last one: after one
    epoch of five, the best-looking LR at large batches is octaves too high. So nothing within reach of the
    best is ended here, whatever it looks like, and of what is out of reach only what also looks worse.

    What counts as known are the runs of earlier waves: so the decision doesn't depend on which of two
    running trials is a moment faster.

    Args:
        octaves: factors of two in LR between a run and the best, at least.
        share: of its evaluations that every run gets, 0 to 1.
        key: the searched learning rate.
    """

    def __init__(self, octaves: float = 3.0, share: float = 0.25, key: str = "optimizer.lr") -> None:
        if octaves < 2 or not 0 < share <= 1:
            raise ValueError(f"octaves={octaves}, share={share}: at least 2 octaves, and a share of 0 to 1")
        self._octaves = octaves
        self._share = share
        self._key = key

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether `trial` should end now."""
        step, last = trial.last_step, trial.user_attrs.get("last_step")
        if step is None or not last or step < self._share * last or step >= last or self._key not in trial.params:
            return False
        wave = _wave(trial)
        known = [
            other
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if _wave(other) < wave and self._key in other.params and other.user_attrs.get("status") not in FAILED
        ]
        if len(known) < FEWEST:
            return False
        beside = self._best(known)
        distance = abs(self._octave(trial) - float(np.mean([self._octave(other) for other in beside])))
        if distance < self._octaves:
            return False
        values = [other.intermediate_values[step] for other in beside if step in other.intermediate_values]
        return bool(values) and not trial.intermediate_values[step] <= float(np.median(values))

    def _octave(self, trial: FrozenTrial) -> float:
        return math.log2(trial.params[self._key])

    def _best(self, known: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The runs in the quarter of an octave with the lowest mean result."""
        return min(
            bin_by_lr(known, self._octave).values(), key=lambda trials: float(np.mean([t.value for t in trials]))
        )


def _wave(trial: FrozenTrial) -> float:
    """The sweep's wave that a trial belongs to; a trial of no wave (a further one) belongs to none that counts."""
    wave = trial.user_attrs.get("wave")
    return wave[0] if wave else math.inf
