"""The posterior of a curve's minimum: it covers the truth, and says so where it can't tell."""

import numpy as np
import pytest

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.curve import GRID, fit_curve
from tests.analysis.simulate import SHAPES, study


def interval(runs, rng):
    curve = fit_curve(runs, rng)
    if curve is None or curve.censored():
        return None
    return np.quantile(curve.argmins(), (0.025, 0.975))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # A small version of the full calibration: 160 studies; 95 % intervals, so 152 hits ± 5 were they exact.
    covered = estimated = 0
    for shape in SHAPES:
        rng = np.random.default_rng(11)
        for repeat in range(40):
            truth = 0.1 * 2 ** rng.uniform(-1, 1)
            found = interval(study(64, truth, rng, shape=shape, noise=(0.03, 0.1)[repeat % 2]), rng)
            if found is not None:
                estimated += 1
                covered += found[0] - GRID / 2 <= np.log2(truth) <= found[1] + GRID / 2
    assert estimated >= 110
    assert 0.88 <= covered / estimated <= 1


def test_more_trials_narrow_the_interval():
    widths = []
    for trials in (10, 60):
        rng = np.random.default_rng(3)
        found = [interval(study(64, 0.1, rng, shape="steep right", trials=trials), rng) for _ in range(10)]
        widths.append(np.median([high - low for low, high in (f for f in found if f is not None)]))
    assert widths[1] < 0.8 * widths[0]


@pytest.mark.parametrize(("tried", "side"), [((-5, -1.5), "low"), ((1.5, 5), "high")])
def test_a_minimum_beyond_what_was_tried_is_censored(tried, side):
    side = {"low": "high", "high": "low"}[side]  # all trials below the best: it may lie higher, and vice versa
    octaves = np.linspace(*tried, 15)
    runs = [Run(64, float(2**x), float(np.exp(0.1 * x**2)), seed=0) for x in octaves]
    curve = fit_curve(runs, np.random.default_rng(0))
    assert curve is not None
    assert curve.censored() == side


def test_too_few_runs_or_lrs_give_no_curve():
    rng = np.random.default_rng(0)
    assert fit_curve([Run(64, 0.1, 1.0)] * 4, rng) is None
    assert fit_curve([Run(64, lr, 1.0 + lr) for lr in (0.1, 0.1, 0.2, 0.2, 0.4, 0.4)], rng) is None


def test_an_offset_between_seeds_does_not_move_the_minimum():
    rng = np.random.default_rng(5)
    runs = study(64, 0.1, rng, shape="steep right", noise=0.01, seed_sd=0.3, seeds=2)
    low, high = interval(runs, rng)
    assert low - GRID <= np.log2(0.1) <= high + GRID
    assert high - low < 1.0


def test_values_of_zero_do_not_break_it():
    runs = [Run(64, float(2**x), max(0.0, 0.01 * x**2), seed=0) for x in np.linspace(-2, 2, 17)]
    curve = fit_curve(runs, np.random.default_rng(0))
    assert curve is not None
    assert np.isfinite(curve.draws).all()


def test_a_run_that_barely_survived_at_the_wall_does_not_move_the_minimum():
    rng = np.random.default_rng(2)
    runs = study(64, 0.1, rng, noise=0.01, seed_sd=0.01, trials=40)
    at_wall = [Run(64, 0.1 * 2**1.6, 1.3, seed=1), Run(64, 0.1 * 2**1.7, 0.9, seed=2)]
    without, with_them = (fit_curve(r, np.random.default_rng(0)) for r in (runs, [*runs, *at_wall]))
    assert np.median(with_them.argmins()) == pytest.approx(np.median(without.argmins()), abs=0.25)
    # and what they say of the loss there is not lost
    there = np.full(len(with_them.draws), np.log2(0.1) + 1.65)
    assert np.median(with_them.at(there)) > np.median(without.at(there)) + 0.05
