"""Group-sequential levels: closed forms, and the error over all looks."""

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.stats.sequential import crossing_probability, nominal_level

LOOKS = (12, 24, 48, 96)


def test_the_error_over_all_looks_is_the_level():
    for level in (0.05, 0.05 / 21):
        bound = stats.norm.isf(nominal_level(LOOKS, level))
        counts = np.array(LOOKS)
        correlation = np.sqrt(np.minimum.outer(counts, counts) / np.maximum.outer(counts, counts))
        within = stats.multivariate_normal.cdf([bound] * 4, cov=correlation)
        assert 1 - within == pytest.approx(level, rel=0.02)
        assert crossing_probability(LOOKS, bound) == pytest.approx(level)


def test_two_looks_at_half_and_all_have_pococks_level():
    # Jennison & Turnbull 2000, table 2.1: 1.875 for two equal groups at a one-sided 5 %.
    assert stats.norm.isf(nominal_level((10, 20), 0.05)) == pytest.approx(1.875, abs=0.002)


@pytest.mark.parametrize("looks", [(), (5,)])
def test_one_look_has_the_level_itself(looks):
    assert nominal_level(looks, 0.05) == 0.05


def test_students_t_at_the_nominal_level_keeps_the_error_from_twelve_pairs_on():
    differences = np.random.default_rng(0).standard_normal((40_000, LOOKS[-1]))
    level = nominal_level(LOOKS, 0.05)
    crossed = np.zeros(len(differences), dtype=bool)
    for look in LOOKS:
        first = differences[:, :look]
        crossed |= first.mean(axis=1) / first.std(axis=1, ddof=1) * np.sqrt(look) > stats.t.isf(level, look - 1)
    assert crossed.mean() == pytest.approx(0.05, abs=0.004)
