"""The intervals of one study: what is searched now, what Optuna's storage is told, and how they grow."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lr_study.space import Dimension

# How many octaves (factors of two) an interval grows at a time.
WIDEN_OCTAVES = 2
# Fewest results that show where the best is.
FEWEST = 6


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """Optuna's distribution for a dimension."""
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


class Intervals:
    """A cell's dimensions, of which those on a log scale may be widened.

    Linear intervals and intervals of whole numbers stay: their ends usually mean something (a probability ends at 1).

    Args:
        dimensions: as they were requested.
        widenings: how often they may be widened in all.
    """

    def __init__(self, dimensions: Iterable[Dimension], widenings: int) -> None:
        self._asked = {dimension.key: dimension for dimension in dimensions}
        self._now = dict(self._asked)
        self._widenings = widenings
        self.widened: list[list[Any]] = []  # [wave, key, low, high], in order

    def searched(self) -> dict[str, BaseDistribution]:
        """The distributions that proposals come from now."""
        return {key: distribution_of(dimension) for key, dimension in self._now.items()}

    def stored(self) -> dict[str, BaseDistribution]:
        """The distributions in Optuna's storage: as wide as they may become, since a study's must not change later."""
        room = 2.0 ** (WIDEN_OCTAVES * self._widenings)
        wide = {}
        for key, now in self._now.items():
            if _may_widen(now):
                asked = self._asked[key]
                now = replace(now, low=min(asked.low / room, now.low), high=max(asked.high * room, now.high))
            wide[key] = distribution_of(now)
        return wide

    def include(self, params: Mapping[str, Any]) -> bool:
        """Stretch the intervals to hold given values, and return whether that changed any."""
        before = dict(self._now)
        for key in params.keys() & self._now.keys():
            low, high = self._now[key].low, self._now[key].high
            self._now[key] = replace(self._now[key], low=min(low, params[key]), high=max(high, params[key]))
        return self._now != before

    def restore(self, widened: Sequence[list[Any]]) -> None:
        """Widen the intervals as earlier commands did."""
        self.widened = list(widened)
        for _, key, low, high in widened:
            if key in self._now:
                self._now[key] = replace(self._now[key], low=low, high=high)

    def widen(self, trials: Sequence[FrozenTrial], direction: StudyDirection, wave: int) -> Dimension | None:
        """Widen the first interval whose outermost octave holds the best results, at most once a wave.

        Results within a quarter of an octave are averaged, so that one lucky replicate doesn't decide.

        Returns:
            The dimension as it now is, or None where nothing changed.
        """
        if len(self.widened) >= self._widenings or any(wave == done for done, *_ in self.widened):
            return None
        done = [t for t in trials if t.state is TrialState.COMPLETE and t.values and math.isfinite(t.values[0])]
        if len(done) < FEWEST:
            return None
        for key, dimension in self._now.items():
            if not _may_widen(dimension):
                continue
            best = _best_bin(done, key, direction)
            if best < math.log2(dimension.low) + 1:
                grown = replace(dimension, low=dimension.low / 2**WIDEN_OCTAVES)
            elif best > math.log2(dimension.high) - 1:
                grown = replace(dimension, high=dimension.high * 2**WIDEN_OCTAVES)
            else:
                continue
            self._now[key] = grown
            self.widened.append([wave, key, grown.low, grown.high])
            return grown
        return None


def _may_widen(dimension: Dimension) -> bool:
    return dimension.log and not dimension.integer


def _best_bin(trials: Sequence[FrozenTrial], key: str, direction: StudyDirection) -> float:
    """The LR, in octaves, of the bin of a quarter octave with the best mean result."""
    sign = -1 if direction is StudyDirection.MAXIMIZE else 1
    bins: dict[int, list[float]] = {}
    for trial in trials:
        bins.setdefault(round(4 * math.log2(trial.params[key])), []).append(sign * trial.values[0])
    return min(bins, key=lambda number: sum(bins[number]) / len(bins[number])) / 4
