"""Tables of other people's runs, each a kind that was once judged wrongly."""

import math

import numpy as np
import pytest

from pipeline.analysis.runs import Run
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.settings import AnalysisSettings, Margin
from pipeline.analysis.text.render import rows
from pipeline.analysis.text.summary import summary

SIZES = (64, 128, 256)


def verdicts(answer, rule):
    return {cell.batch: cell.rules[rule].verdict for cell in answer.batches}


@pytest.mark.parametrize("count", [3, 4, 8])
@pytest.mark.parametrize("side", [1, -1])
def test_published_means_whose_loss_falls_up_to_the_last_lr_are_censored_as_single_runs_are(count, side):
    runs = [
        Run(size, 0.1 * 2.0 ** (side * i), 1.0 - 0.05 * i, value_sd=0.001, n=5) for size in SIZES for i in range(count)
    ]
    answer = analyse(runs)
    assert {cell.censored for cell in answer.batches} == {"high" if side > 0 else "low"}
    assert all(cell.best_lr is None for cell in answer.batches)
    assert not {"holds", "breaks"} & {
        v for rule in ("linear", "sqrt", "fixed") for v in verdicts(answer, rule).values()
    }
    assert summary(answer)[0].startswith("Can't say whether the linear rule holds")


def spread(size, best, octaves, rng):
    return [
        Run(size, float(best * 2.0**x), 0.2 * math.exp(0.08 * x * x + rng.normal(0, 0.02)), seed)
        for x in octaves
        for seed in range(2)
    ]


def test_between_two_lrs_that_were_run_outside_the_fitted_window_what_was_run_there_decides():
    rng = np.random.default_rng(0)
    near = np.arange(-2.5, 2.6, 0.5)
    # At 2048 the best LR is that of 64, five octaves below linear's, where both neighbours are much worse.
    runs = [*spread(64, 0.1, near, rng), *spread(2048, 0.1, [*near, 4.5, 5.5], rng)]
    terms = AnalysisSettings(Margin(0.10), base_batch=64)
    result = analyse(runs, terms).batches[-1].rules["linear"]
    assert (result.verdict, result.reason) == ("breaks", "at least")
    # A wall on one side is as bad.
    walled = [*spread(2048, 0.1, [*near, 4.5], rng), Run(2048, 0.1 * 2**5.5, math.nan, 0, "diverged")]
    result = analyse([*runs[:22], *walled], terms).batches[-1].rules["linear"]
    assert (result.verdict, result.reason) == ("breaks", "at least")


def test_outside_is_only_what_lies_beyond_all_that_was_run():
    rng = np.random.default_rng(0)
    near = np.arange(-2.5, 2.6, 0.5)
    runs = [*spread(64, 0.1, near, rng), *spread(2048, 0.1, near, rng)]
    result = analyse(runs, AnalysisSettings(Margin(0.10), base_batch=64)).batches[-1].rules["linear"]
    assert (result.verdict, result.reason) == ("censored", "outside what was tried")
    # A flat curve between: its ends are within the margin, and so nothing is known of what lies between the LRs.
    flat = [Run(2048, 0.1 * 2.0**x, 0.2, s) for x in (*near, 7.0) for s in range(2)]
    between = analyse([*runs[:22], *flat], AnalysisSettings(Margin(0.10), base_batch=64)).batches[-1].rules["linear"]
    assert between.verdict in ("undecided", "censored")
    assert between.reason != "outside what was tried"


def test_where_one_lr_was_tried_at_each_batch_size_that_is_the_reason():
    runs = [Run(size, 0.1 * size / 64, 0.2, value_sd=0.01, n=5) for size in (8, 16, 32, 64, 128, 256)]
    answer = analyse(runs)
    said = summary(answer)
    assert said[0] == "Only one LR was tried at each batch size, so no rule can be compared with anything."
    assert not any("seeds needed" in line or "Undecided" in line or "Not settled" in line for line in said)
    assert answer.questions[0].evidence == "Only one LR was tried at each batch size."
    assert {result.reason for cell in answer.others for result in cell.rules.values()} == {"only one LR was tried"}


@pytest.mark.parametrize("scale", [1, 100])
def test_a_table_of_accuracies_is_told_that_smaller_is_better(scale):
    octaves = np.arange(-3, 3.1, 0.5)
    runs = [
        Run(size, 0.1 * 2.0**x, scale * (0.9 - 0.02 * x * x + 0.001 * s), s)
        for size in SIZES
        for x in octaves
        for s in (0, 1)
    ]
    hint = "Smaller values are taken to be better. These look like accuracies: give errors, 1 − accuracy."
    assert hint in summary(analyse(runs))
    errors = [Run(run.batch, run.lr, scale - run.value, run.seed) for run in runs]
    assert hint not in summary(analyse(errors))
    # Losses that only fall over the LRs are no accuracies.
    falling = [Run(size, 0.1 * 2.0**x, 0.5 - 0.05 * x, s) for size in SIZES for x in octaves for s in (0, 1)]
    assert hint not in summary(analyse(falling))


@pytest.mark.parametrize("seed", [None, 0])
def test_a_table_with_one_run_at_each_lr_says_what_its_intervals_are_about(seed):
    rng = np.random.default_rng(0)
    runs = [
        Run(size, 0.1 * 2.0**x, 0.2 * math.exp(0.05 * x * x + rng.normal(0, 0.01)), seed)
        for size in SIZES
        for x in np.arange(-3, 3.1, 0.5)
    ]
    answer = analyse(runs)
    assert all(row[2] for row in rows(answer))
    said = "One run at each LR: the intervals are about these runs alone. Other seeds may say something else."
    assert said in summary(answer)
    twice = [*runs, *(Run(run.batch, run.lr, run.value * 1.01, 1) for run in runs)]
    assert said not in summary(analyse(twice))
