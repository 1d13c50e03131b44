"""A sampler that takes each point of a grid with every replicate."""

import math
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial


class GridSampler(RandomSampler):
    """Evenly spaced points in every interval, ends included; each point is taken `repeats` times in a row.

    Optuna's own grid needs a list of points, and combines them with replicates at random.

    Args:
        points: in each dimension.
        repeats: trials at each point: the number of replicates. After the last point the grid starts again.
        seed: for parameters that are neither float nor int.
    """

    def __init__(self, points: int = 8, repeats: int = 1, seed: int | None = None) -> None:
        if points < 2 or repeats < 1:
            raise ValueError(f"points={points}, repeats={repeats}: at least 2 points, each at least once")
        super().__init__(seed)
        self._points = points
        self._repeats = repeats

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of `param_name` at the trial's point."""
        if not isinstance(param_distribution, FloatDistribution | IntDistribution):
            return super().sample_independent(study, trial, param_name, param_distribution)
        # Each dimension is one digit of the point's number; Optuna asks for the dimensions in order.
        position = len(trial.params) if param_name not in trial.params else list(trial.params).index(param_name)
        point = trial.number // self._repeats // self._points**position
        return self.values(param_distribution)[point % self._points]

    def values(self, distribution: FloatDistribution | IntDistribution) -> list[float]:
        """The points in one dimension."""
        low, high = distribution.low, distribution.high
        share = np.linspace(0, 1, self._points)
        if distribution.log:
            values = np.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            values = low + share * (high - low)
        if isinstance(distribution, IntDistribution):
            return [round(float(value)) for value in values]
        return [float(min(max(value, low), high)) for value in values]
