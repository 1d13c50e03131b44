"""Comparisons of fresh seeds in pairs and of published means, and the LRs that fresh seeds should run."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.run_table import read_table
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.confirmation import compare, points_to_confirm
from pipeline.analysis.stats.results import BREAKS_WITHOUT_HOLM
from pipeline.analysis.stats.settings import AnalysisSettings, Margin
from pipeline.analysis.text.report_json import to_json
from pipeline.analysis.text.summary import summary
from tests.analysis.simulate import study


def fresh(batch, lr, value, seed):
    return Run(batch, lr, value, seed=seed, phase="confirm")


def searched(law, sizes=(16, 64, 256), **options):
    rng = np.random.default_rng(0)
    options = {"noise": 0.01, "seed_sd": 0.05, "trials": 60} | options
    return [run for size in sizes for run in study(size, law(size), rng, **options)]


def confirmed(law, noise=0.01, seeds=range(1000, 1005), curvature=0.03):
    """A sweep and its confirmation, on symmetric curves."""
    runs = searched(law)
    rng = np.random.default_rng(1)
    offsets = {seed: rng.normal(0, 0.15) for seed in seeds}  # three margins: seeds differ more than LRs do
    for batch, lr in points_to_confirm(runs, 64):
        excess = curvature * math.log2(lr / law(batch)) ** 2
        runs += [fresh(batch, lr, 0.2 * math.exp(excess + offsets[s] + rng.normal(0, noise)), s) for s in seeds]
    return runs


def test_the_regret_is_the_paired_difference_with_its_t_interval():
    there, best = np.array([1.0, 1.3, 0.9]), np.array([0.8, 1.2, 0.75])
    runs = [fresh(64, 0.2, v, s) for s, v in enumerate(there)] + [fresh(64, 0.1, v, s) for s, v in enumerate(best)]
    found = compare(runs, 0.2, 0.1)
    differences = there - best
    low, high = stats.t.interval(0.9, 2, differences.mean(), differences.std(ddof=1) / math.sqrt(3))
    assert found.mean == pytest.approx(differences.mean())
    assert found.bounds(0.05) == pytest.approx((low, high))
    expected = stats.ttest_1samp(differences, 0.1, alternative="greater").pvalue
    assert found.p_value_above(0.1) == pytest.approx(expected)


def test_a_seed_without_its_partner_and_a_search_run_are_no_pair():
    runs = [fresh(64, 0.2, 1.0, 0), fresh(64, 0.1, 1.0, 1), Run(64, 0.2, 1.0, seed=1), Run(64, 0.1, 1.0, seed=0)]
    assert compare(runs, 0.2, 0.1) is None


def test_fresh_seeds_run_the_best_lr_and_each_rules_lr_below_the_failing_one():
    runs = searched(lambda size: 0.1 * size / 64)
    base_lr = analyse(runs, AnalysisSettings(base_batch=64)).batches[1].best_lr
    points = points_to_confirm(runs, 64)
    assert [batch for batch, _ in points].count(64) == 1  # all rules start there
    at_256 = [lr for batch, lr in points if batch == 256]
    assert len(at_256) == 4
    assert at_256[1:] == pytest.approx([base_lr * 4, base_lr * 2, base_lr])
    failing = [*runs, Run(256, base_lr * 3, math.nan, seed=0, status="diverged")]
    assert all(lr < base_lr * 3 for batch, lr in points_to_confirm(failing, 64) if batch == 256)


def test_confirmation_moves_neither_the_best_lr_nor_what_is_to_run():
    runs = confirmed(lambda size: 0.1 * size / 64)
    search = [run for run in runs if run.phase == "search"]
    assert points_to_confirm(runs, 64) == points_to_confirm(search, 64)
    assert [c.best_lr for c in analyse(runs).batches] == [c.best_lr for c in analyse(search).batches]


def test_a_fresh_seed_that_fails_bounds_the_lr_and_leaves_the_searchs_best_and_its_pairs():
    runs = confirmed(lambda size: 0.1 * size / 64)
    before = analyse(runs, AnalysisSettings(base_batch=64)).batches[-1]
    failing = [*runs, Run(256, before.best_lr * 1.6, math.nan, seed=1007, status="diverged", phase="confirm")]
    after = analyse(failing, AnalysisSettings(base_batch=64)).batches[-1]
    assert after.best_lr == before.best_lr
    assert after.failing_lr == before.best_lr * 1.6
    assert after.ci_high <= after.failing_lr
    assert after.rules["fixed"].evidence == "confirmed"
    at_the_best = Run(256, before.best_lr, math.nan, seed=1007, status="diverged", phase="confirm")
    ruled_out = analyse([*runs, at_the_best], AnalysisSettings(base_batch=64)).batches[-1]
    assert ruled_out.best_lr is None or ruled_out.best_lr < before.best_lr


def test_pairs_that_agree_to_the_last_digit_are_no_more_certain_than_a_sign_test():
    runs = [fresh(64, lr, value, seed) for lr, value in ((0.2, 30.0), (0.1, 20.0)) for seed in range(5)]
    found = compare(runs, 0.2, 0.1)
    assert found.p_value_above(5.0) == pytest.approx(0.5**5)
    assert found.p_value_below(15.0) == pytest.approx(0.5**5)
    assert found.p_value_above(15.0) == found.p_value_below(5.0) == 1


def test_the_lowest_of_many_equal_means_breaks_no_rule():
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(300):
        means = rng.normal(20, 0.1 / math.sqrt(5), 11)
        there = [Run(1024, 0.1 * 2**i, mean, value_sd=0.1, n=5) for i, mean in enumerate(means)]
        verdicts.append(compare(there, 0.1 * 2**5, there[0].lr).p_value_above(1e-9) <= 0.05)
    assert np.mean(verdicts) <= 0.06


def test_one_batch_size_has_nothing_to_confirm():
    assert points_to_confirm(searched(lambda size: 0.1, sizes=(64,)), 64) == []
    assert points_to_confirm([], 64) == []


def test_fresh_seeds_in_pairs_decide_what_the_seeds_own_differences_would_hide():
    answer = analyse(
        confirmed(lambda size: 0.1 * size / 64, curvature=0.06), AnalysisSettings(Margin(0.05), base_batch=64)
    )
    last = answer.batches[-1].rules
    assert last["linear"].evidence == last["fixed"].evidence == "confirmed"
    assert last["linear"].seeds == 5
    assert (last["linear"].verdict, last["fixed"].verdict) == ("holds", "breaks")
    assert any("5 fresh seeds" in line for line in summary(answer))


def test_an_undecided_rule_says_how_many_seeds_would_decide():
    answer = analyse(confirmed(lambda size: 0.1 * size / 64, noise=0.3), AnalysisSettings(Margin(0.05), base_batch=64))
    undecided = [c.rules["linear"] for c in answer.batches if c.rules["linear"].verdict == "undecided"]
    assert undecided
    assert all(rule.more_seeds is None or rule.more_seeds >= 1 for rule in undecided)
    assert any(line.startswith("Undecided:") for line in summary(answer))


def test_a_break_that_only_the_number_of_batch_sizes_leaves_open_is_said():
    runs = searched(lambda size: 0.1 * min(size, 64) / 64)
    noise = np.array([-1.5, -0.5, 0.0, 0.5, 1.5])
    # One-sided p = 0.03: enough for one batch size, not for the smaller of two.
    gap = 0.002 + stats.t.isf(0.03, 4) * 0.02 * noise.std(ddof=1) / math.sqrt(5)
    for batch, lr in points_to_confirm(runs, 64):
        worse = gap + 0.02 * noise if batch == 256 and lr > 0.3 else 0.0 * noise
        runs += [fresh(batch, lr, 0.2 + worse[seed], seed) for seed in range(5)]
    terms = AnalysisSettings(Margin(0.002, False), base_batch=64)
    alone = analyse([run for run in runs if run.batch != 16], terms)
    both = analyse(runs, terms)
    assert alone.batches[-1].rules["linear"].verdict == "breaks"
    result = both.batches[-1].rules["linear"]
    assert (result.verdict, result.reason) == ("undecided", BREAKS_WITHOUT_HOLM)
    assert any(
        "2 batch sizes are judged at once (Holm's correction): judged alone, linear breaks at 256" in line
        for line in summary(both)
    )


def test_looks_share_the_level_and_the_report_says_if_there_were_more_than_planned():
    runs = searched(lambda size: 0.1 * size / 64)
    assert analyse(runs, AnalysisSettings(planned_looks=2)).level == pytest.approx(0.025)
    unplanned = analyse(runs, AnalysisSettings(looks=3, planned_looks=1))
    assert any("Looked at 3 times, 1 planned" in line for line in summary(unplanned))


def test_goyals_table_says_what_goyal_said():
    # Goyal et al. 2017, arXiv:1706.02677, table 2 and figure 3: top-1 error in percent, mean and sd over five runs.
    answer = analyse(read_table(Path(__file__).parent / "goyal.csv"), AnalysisSettings(Margin(0.24, False)))
    large = answer.batches[-1]
    assert {rule: result.verdict for rule, result in large.rules.items()} == {
        "linear": "holds",
        "sqrt": "breaks",
        "fixed": "breaks",
    }
    assert large.rules["sqrt"].regret == pytest.approx(26.22 - 23.74)
    assert to_json(answer)["batches"][-1]["evidence"] == "published"
    assert answer.seed_sd == pytest.approx(0.12)  # at the base, as published


def test_published_means_are_called_so_also_where_there_are_enough_for_a_curve():
    runs = [
        Run(size, 0.1 * 2 ** (i / 2), 0.2 + 0.02 * (i - 4) ** 2, value_sd=0.01, n=5)
        for size in (64, 128)
        for i in range(9)
    ]
    answer = analyse(runs, AnalysisSettings(base_batch=64))
    assert {result.evidence for cell in answer.batches for result in cell.rules.values()} <= {"published", ""}
    assert not any("fresh seeds" in line for line in summary(answer))
