"""Fresh seeds: what has to run, look by look; comparisons in pairs and of published means; and their verdicts."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.run_table import read_table
from pipeline.analysis.runs import Run
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.batch_fit import BatchFit, lowest_failing
from pipeline.analysis.stats.confirmation import Extension, next_points
from pipeline.analysis.stats.pairs import FAILED_LOSS, compare_pairs, compare_published, fresh_seeds, seeds_at
from pipeline.analysis.stats.results import BatchResult
from pipeline.analysis.stats.settings import AnalysisSettings, Margin
from pipeline.analysis.stats.verdict import Terms, judge_by_pairs
from pipeline.analysis.text.report_json import to_json
from pipeline.analysis.text.summary import summary
from tests.analysis.simulate import study

LOOKS = (6, 12, 24)
TERMS = AnalysisSettings(Margin(0.05), base_batch=64, looks=LOOKS)


def linear(size):
    return 0.1 * size / 64


def fresh(batch, lr, value, seed, status="complete"):
    return Run(batch, lr, value, seed=seed, status=status, phase="confirm")


def searched(law, sizes=(16, 64, 256), **options):
    rng = np.random.default_rng(0)
    options = {"noise": 0.01, "seed_sd": 0.05, "trials": 60} | options
    return [run for size in sizes for run in study(size, law(size), rng, **options)]


def confirm(extensions, law, rng, noise=0.01, curvature=0.03):
    """The runs that were asked for, on symmetric curves; seeds differ by three margins, more than LRs do."""
    return [
        fresh(
            point.batch,
            lr,
            0.2
            * math.exp(
                curvature * math.log2(lr / law(point.batch)) ** 2
                + np.random.default_rng(seed).normal(0, 0.15)
                + rng.normal(0, noise)
            ),
            seed,
        )
        for point in extensions
        for lr in point.lrs
        for seed in point.seeds
    ]


def confirmed(law, terms=TERMS, runs=None, **options):
    """A sweep and its confirmation, until nothing more is asked for; and what was asked for."""
    runs, asked, rng = list(runs or searched(law)), [], np.random.default_rng(1)
    while extensions := next_points(runs, terms):
        asked.append(extensions)
        runs += confirm(extensions, law, rng, **options)
    return runs, asked


def test_the_regret_is_the_paired_difference_of_log_losses_with_its_t_interval():
    there, best = np.array([1.0, 1.3, 0.9, 7.0]), np.array([0.8, 1.2, 0.75, 7.0])
    found = compare_pairs(dict(enumerate(there)), dict(enumerate(best)), 3)
    differences = np.log(there[:3]) - np.log(best[:3])
    low, high = stats.t.interval(0.9, 2, differences.mean(), differences.std(ddof=1) / math.sqrt(3))
    assert (found.mean, found.seeds) == (pytest.approx(differences.mean()), 3)
    in_loss = best[:3].mean() * np.expm1([differences.mean(), low, high])
    assert found.regret(0.05) == pytest.approx(tuple(in_loss))
    margin = math.log1p(0.1 / best[:3].mean())
    expected = stats.ttest_1samp(differences, margin, alternative="greater").pvalue
    assert found.p_value_above(0.1) == pytest.approx(expected)
    assert found.p_value_below(0.1) == pytest.approx(1 - expected)


def test_where_a_value_is_zero_plain_differences_are_compared():
    found = compare_pairs({0: 0.0, 1: 0.2, 2: 0.3}, {0: 0.1, 1: 0.1, 2: 0.1}, 3)
    assert (found.mean, found.is_log) == (pytest.approx(0.2 / 3), False)


def test_a_seed_without_its_partner_and_a_search_run_are_no_pair():
    runs = [fresh(64, 0.2, 1.0, 0), fresh(64, 0.1, 1.0, 1), Run(64, 0.2, 1.0, seed=1), Run(64, 0.1, 1.0, seed=0)]
    by_lr = fresh_seeds(runs, 1.0)
    assert compare_pairs(seeds_at(by_lr, 0.2), seeds_at(by_lr, 0.1), 9) is None


def test_pairs_that_agree_to_the_last_digit_are_no_more_certain_than_a_sign_test():
    found = compare_pairs(dict.fromkeys(range(5), 30.0), dict.fromkeys(range(5), 20.0), 5)
    assert found.p_value_above(5.0) == pytest.approx(0.5**5)
    assert found.p_value_below(15.0) == pytest.approx(0.5**5)
    assert found.p_value_above(15.0) == found.p_value_below(5.0) == 1


def test_the_first_look_asks_for_the_rules_lr_its_neighbours_and_the_best_and_for_the_bases_best():
    runs = searched(lambda size: 0.1 * math.sqrt(size / 64))
    found = {point.batch: point for point in next_points(runs, TERMS)}
    cells = {cell.batch: cell for cell in analyse(runs, TERMS).batches}
    base_lr = cells[64].best_lr
    assert found[64] == Extension(64, (pytest.approx(base_lr),), 0, 6)
    for batch in (16, 256):
        lr = base_lr * batch / 64
        # The best LR is about an octave from linear's here, so it may stand for itself or be a neighbour.
        assert found[batch].lrs[:3] == pytest.approx((lr, lr / 2, lr * 2))
        nearest = min(abs(math.log2(cells[batch].best_lr / other)) for other in found[batch].lrs)
        assert nearest <= 0.125
        assert list(found[batch].seeds) == list(range(1000, 1006))


def test_lrs_at_or_above_the_lowest_failing_one_are_not_run_and_a_rule_that_fails_asks_for_nothing():
    runs = searched(linear)
    base_lr = analyse(runs, TERMS).batches[1].best_lr
    at_256 = next(point for point in next_points(runs, TERMS) if point.batch == 256)
    assert max(at_256.lrs) == pytest.approx(base_lr * 8)
    failing = [*runs, Run(256, base_lr * 7, math.nan, seed=0, status="diverged")]
    at_256 = next(point for point in next_points(failing, TERMS) if point.batch == 256)
    assert max(at_256.lrs) < base_lr * 7
    failing = [*runs, Run(256, base_lr * 3, math.nan, seed=0, status="diverged")]
    assert [point.batch for point in next_points(failing, TERMS)] == [16, 64]


def test_looks_go_on_where_a_verdict_is_open_and_end_with_the_schedule():
    runs, asked = confirmed(linear, noise=0.2)
    first, *later = asked
    assert [point.batch for point in first] == [16, 64, 256]
    # The base batch has one look only; the others get the seeds that the next look lacks, at the same LRs.
    assert later
    assert not any(point.batch == 64 for points in later for point in points)
    lrs = {point.batch: point.lrs for point in first}
    for number, points in enumerate(later, start=1):
        for point in points:
            assert (point.first, point.count) == (LOOKS[number - 1], LOOKS[number] - LOOKS[number - 1])
            assert point.lrs == pytest.approx(lrs[point.batch])
    judged = analyse(runs, TERMS).batches
    asked_at_the_end = {point.batch for point in asked[-1]}
    for cell in judged:
        if cell.batch != 64 and cell.batch not in asked_at_the_end:
            assert cell.rules["linear"].verdict in ("holds", "breaks")


def test_nothing_is_asked_without_a_schedule_without_a_second_batch_size_or_without_a_best_lr_at_the_base():
    assert next_points(searched(linear), AnalysisSettings(base_batch=64)) == []
    assert next_points(searched(linear, sizes=(64,)), TERMS) == []
    assert next_points([], TERMS) == []
    at_edge = [run for run in searched(linear) if run.batch != 64 or run.lr < 0.07]
    assert next_points(at_edge, TERMS) == []
    # A base LR that was tuned elsewhere needs no search at the base batch.
    given = AnalysisSettings(Margin(0.01, False), base_batch=64, looks=LOOKS, base_lr=0.1)
    assert {point.batch for point in next_points(at_edge, given)} == {16, 64, 256}


def test_a_look_that_is_finished_in_part_is_asked_for_again_as_a_whole():
    runs = searched(linear)
    asked = next_points(runs, TERMS)
    done = confirm(asked, linear, np.random.default_rng(0))
    assert next_points([*runs, *done[:7]], TERMS) == asked
    lost = [*runs, *done[:-1], fresh(256, done[-1].lr, math.nan, done[-1].seed, "lost")]
    assert [point for point in asked if point.batch == 256] == [p for p in next_points(lost, TERMS) if p.batch == 256]
    # A seed that an error ended would fail again: the look goes on without it.
    raised = [*runs, *done[:-1], fresh(256, done[-1].lr, math.nan, done[-1].seed, "failed")]
    assert 256 not in [point.batch for point in next_points(raised, TERMS)]


def test_fresh_seeds_move_neither_the_best_lr_nor_what_is_to_run():
    runs, asked = confirmed(linear, noise=0.2)
    search = [run for run in runs if run.phase == "search"]
    assert next_points(search, TERMS) == asked[0]
    assert [c.best_lr for c in analyse(runs).batches] == [c.best_lr for c in analyse(search).batches]


def test_the_first_look_that_decides_counts_whatever_comes_later():
    runs, _ = confirmed(linear)
    before = analyse(runs, TERMS).batches[-1].rules["linear"]
    assert (before.verdict, before.seeds) == ("holds", 6)
    lrs = {run.lr for run in runs if run.phase == "confirm" and run.batch == 256}
    rule_lr = min(lrs, key=lambda lr: abs(math.log(lr / before.lr)))
    worse = [fresh(256, lr, 9.0 if lr == rule_lr else 0.2, seed) for lr in lrs for seed in range(1006, 1024)]
    assert analyse([*runs, *worse], TERMS).batches[-1].rules["linear"] == before
    # Pairs beyond the last look count only where no look is planned.
    some = analyse([*runs, *worse], AnalysisSettings(Margin(0.05), base_batch=64)).batches[-1].rules["linear"]
    assert some.seeds == 24


def test_fresh_seeds_in_pairs_decide_what_the_seeds_own_differences_would_hide():
    runs, _ = confirmed(lambda size: 0.1, curvature=0.06)
    answer = analyse(runs, TERMS)
    last = answer.batches[-1].rules["linear"]
    assert (last.verdict, last.evidence, last.seeds) == ("breaks", "confirmed", 6)
    assert last.loss > 1.2 * last.best_loss
    assert any("6 fresh seeds" in line for line in summary(answer))
    said = summary(answer)[0]
    cost = 100 * last.regret / last.best_loss
    assert said.startswith("From batch 64 (LR 0.1")
    assert f"{cost:.3g} % more value." in said


def test_a_badly_located_best_lr_does_not_make_a_rule_hold():
    runs = searched(linear)
    base_lr = analyse(runs, TERMS).batches[1].best_lr
    rng = np.random.default_rng(0)
    # The search's best at 256 is linear's LR, but by fresh seeds half of it is better by two margins.
    at_256 = next(point for point in next_points(runs, TERMS) if point.batch == 256)
    other = [point for point in next_points(runs, TERMS) if point.batch != 256]
    better = [
        fresh(256, lr, 0.2 * (0.9 if lr < base_lr * 3 else 1.0) * math.exp(rng.normal(0, 0.02)), seed)
        for lr in at_256.lrs
        for seed in range(1000, 1024)
    ]
    cell = analyse([*runs, *confirm(other, linear, rng), *better], TERMS).batches[-1]
    assert cell.best_lr == pytest.approx(4 * base_lr, rel=0.2)
    assert cell.rules["linear"].verdict == "breaks"


def test_one_failed_seed_of_many_is_neither_ignored_nor_decisive_and_several_are_a_failing_lr():
    def at(failed, count, lr=0.1):
        return [fresh(64, lr, 0.2, seed, "diverged" if seed < failed else "complete") for seed in range(count)]

    assert lowest_failing(at(1, 1)) == 0.1
    assert lowest_failing(at(1, 12)) == lowest_failing(at(2, 12)) == math.inf
    assert lowest_failing(at(3, 12)) == 0.1
    assert lowest_failing([*at(0, 12), *at(3, 12, 0.2), *at(12, 12, 0.4)]) == 0.2
    values = fresh_seeds(at(1, 12), best_value=0.2)[0.1]
    assert values[0] == FAILED_LOSS * 0.2
    others = dict.fromkeys(range(12), 0.2)
    found = compare_pairs(values, others, 12)
    assert found.mean == pytest.approx(math.log(FAILED_LOSS) / 12)
    # Twelve pairs with a failed one are not within 5 %; 96 with one are.
    assert found.p_value_below(0.01) > 0.05
    many = compare_pairs({**dict.fromkeys(range(96), 0.2), 0: 0.6}, dict.fromkeys(range(96), 0.2), 96)
    assert many.p_value_below(0.02) < 0.01


def test_fresh_seeds_that_fail_often_bound_the_lr_and_leave_the_searchs_best():
    runs, _ = confirmed(linear)
    before = analyse(runs, TERMS).batches[-1]
    lr = before.best_lr * 1.6
    failing = [*runs, *(fresh(256, lr, math.nan, seed, "diverged") for seed in range(1000, 1003))]
    after = analyse(failing, TERMS).batches[-1]
    assert after.best_lr == before.best_lr
    assert after.failing_lr == lr
    assert after.ci_high <= lr
    assert after.rules["linear"].evidence == "confirmed"


def test_a_difference_at_the_margin_is_not_settled_and_the_report_says_how_near_it_is():
    runs = searched(linear)
    rng = np.random.default_rng(3)
    seeds = range(1000, 1024)
    for point in next_points(runs, TERMS):
        at_margin = 1.05 if point.batch == 256 else 1.0
        for number, lr in enumerate(point.lrs):
            worse = at_margin if number == 0 else 1.0
            runs += [fresh(point.batch, lr, 0.2 * worse * math.exp(rng.normal(0, 0.03)), seed) for seed in seeds]
    answer = analyse(runs, TERMS)
    assert answer.batches[-1].rules["linear"].verdict == "undecided"
    assert next_points(runs, TERMS) == []
    assert any(line.startswith("Not settled after 24 pairs, at a margin of 0.01: worse by") for line in summary(answer))


def test_where_every_rule_is_exactly_at_the_margin_few_studies_have_a_verdict():
    rng = np.random.default_rng(0)
    # Seven batch sizes with three comparisons each. The margin is that of the mean loss, seeds differ by 30 %.
    margin = 0.02 * math.exp(0.3**2 / 2)
    terms = Terms(64, 0.1, margin, looks=(12, 24, 48, 96), batches=7, comparisons=21)
    breaks, holds = [], []
    for _ in range(100):
        verdicts = []
        for _ in range(7):
            offsets = rng.normal(0, 0.3, 96)
            losses = {lr: 0.2 * np.exp(offsets + rng.normal(0, 0.1, 96)) for lr in (0.1, 0.05, 0.2, 0.3)}
            losses[0.1] *= 1.1
            by_lr = {lr: dict(enumerate(values.tolist())) for lr, values in losses.items()}
            found = judge_by_pairs(BatchFit(BatchResult(128, 0, 0), (), 0.3, math.inf, by_lr), 0.1, terms)
            verdicts.append(found.verdict)
        breaks.append("breaks" in verdicts)
        holds += [verdict == "holds" for verdict in verdicts]
    assert np.mean(breaks) <= 0.09  # 5 %, and twice the error of 100 studies
    assert np.mean(holds) <= 0.05


def test_the_base_lr_is_the_one_that_was_given_at_the_configured_base_batch():
    runs = searched(linear)
    given = AnalysisSettings(base_lr=0.07, configured_base=64)
    answer = analyse(runs, given)
    assert (answer.base_lr, answer.base_lr_is_given) == (0.07, True)
    assert answer.batches[-1].rules["linear"].lr == pytest.approx(0.28)
    elsewhere = analyse(runs, AnalysisSettings(base_lr=0.07, configured_base=64, base_batch=16))
    assert elsewhere.base_lr == pytest.approx(elsewhere.batches[0].best_lr)
    assert not elsewhere.base_lr_is_given


def test_the_lowest_of_many_equal_means_breaks_no_rule():
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(300):
        means = rng.normal(20, 0.1 / math.sqrt(5), 11)
        there = [Run(1024, 0.1 * 2**i, mean, value_sd=0.1, n=5) for i, mean in enumerate(means)]
        verdicts.append(compare_published(there, 0.1 * 2**5).p_value_above(1e-9) <= 0.05)
    assert np.mean(verdicts) <= 0.06


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
