"""Advice compared with closed forms, on tables whose law is known, and refusals."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from pipeline.analysis.stats.advice import Question, advise, apply_rule, curvature_allowance
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.settings import AnalysisSettings
from pipeline.analysis.text.advice import print_advice, sentences
from pipeline.recipe.scaling import RULES
from tests.analysis.simulate import study

ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}


def linear(size):
    return 0.1 * size / 64


def saturating(size):
    return 0.1 * (1 + 128 / 64) / (1 + 128 / size)


def runs_of(law, sizes, seed=0, **options):
    rng = np.random.default_rng(seed)
    options = {"noise": 0.01, "seed_sd": 0.05} | options
    return [run for size in sizes for run in study(size, law(size), rng, **options)]


def evidence_of(runs, start, end, lr=0.05, **options):
    return advise(Question(start, lr, end), analyse(runs, AnalysisSettings(**options))).evidence


@pytest.fixture(scope="module")
def measured():
    return runs_of(linear, (64, 128, 512))


def lrs(**given):
    return {rule.rule: rule.lr for rule in advise(Question(64, 0.05, 512, **given)).rules}


def test_each_rule_gives_its_closed_form():
    expected = {
        "fixed": 0.05,
        "linear": 0.4,
        "sqrt": 0.05 * math.sqrt(8),
        "power": 0.05 * 8**0.7,
        "saturating": 0.05 * (1 + 300 / 64) / (1 + 300 / 512),
        "adam_sde": 0.05 * math.sqrt(8),
        "surge": 0.05 * (math.sqrt(300 / 64) + math.sqrt(64 / 300)) / (math.sqrt(300 / 512) + math.sqrt(512 / 300)),
    }
    assert set(expected) == set(RULES)
    assert lrs(exponent=0.7, noise_scale=300, **ADAM) == pytest.approx(expected)


def test_adam_sde_gives_its_betas_and_eps_and_the_other_rules_keep_them():
    rules = {rule.rule: rule for rule in advise(Question(64, 0.001, 256, **ADAM)).rules}
    assert rules["adam_sde"].betas == pytest.approx((0.6, 0.996))
    assert rules["adam_sde"].eps == pytest.approx(0.5e-8)
    assert (rules["sqrt"].betas, rules["sqrt"].eps) == (ADAM["betas"], ADAM["eps"])


def test_a_rule_that_lacks_a_parameter_says_which_and_gives_no_number():
    reasons = {rule.rule: rule.reason for rule in advise(Question(64, 0.05, 512)).rules if rule.lr is None}
    needs_noise_scale = dict.fromkeys(("saturating", "surge"), "needs --noise-scale")
    assert reasons == {"power": "needs --exponent", "adam_sde": "needs --betas"} | needs_noise_scale


def test_adam_sde_says_why_where_it_is_impossible():
    advice = apply_rule("adam_sde", Question(64, 0.001, 640, **ADAM))
    assert (advice.lr, advice.betas, advice.eps) == (None, None, None)
    assert "κ(1−β) = 1 with β = 0.9" in advice.reason
    assert "at most 639" in advice.reason


@pytest.mark.parametrize("question", [Question(1, 1e300, 10**400), Question(10**9, 1e-320, 1, exponent=2.0)])
def test_an_lr_that_overflows_or_underflows_is_no_advice(question):
    for rule in ("linear", "power"):
        assert apply_rule(rule, question).lr is None


def test_the_customary_rules_follow_the_optimizer():
    def customary(**given):
        return [rule.rule for rule in advise(Question(64, 0.05, 512, **given)).rules if rule.customary]

    assert customary() == ["linear"]
    assert customary(**ADAM) == ["sqrt", "adam_sde"]


def test_a_measured_batch_gives_its_own_estimate_and_the_ratio_of_two(measured):
    answer = analyse(measured)
    cells = {cell.batch: cell for cell in answer.batches}
    evidence = advise(Question(64, 0.01, 512), answer).evidence
    own = evidence.best_lr
    assert (own.value, own.low, own.high) == (cells[512].best_lr, cells[512].ci_low, cells[512].ci_high)
    assert evidence.between is None
    assert evidence.ratio.low < 8 < evidence.ratio.high
    assert evidence.ratio.value == pytest.approx(8, rel=0.2)
    # The user's own LR is scaled, not the measured one: it may come from another network.
    assert evidence.scaled_lr.value == pytest.approx(0.01 * evidence.ratio.value)
    assert evidence.scaled_lr.high == pytest.approx(0.01 * evidence.ratio.high)
    assert evidence.linear == cells[512].rules["linear"].verdict == "holds"
    assert evidence.band == (cells[512].band_low, cells[512].band_high)
    assert evidence.refusal is evidence.ratio_refusal is None


def test_between_measured_batches_the_law_is_interpolated(measured):
    evidence = evidence_of(measured, 64, 256)
    assert evidence.between == (128, 512)
    assert evidence.best_lr.value == pytest.approx(linear(256), rel=0.15)
    assert evidence.best_lr.low < linear(256) < evidence.best_lr.high
    assert evidence.ratio.low < 4 < evidence.ratio.high
    assert evidence.linear is evidence.band is evidence.failing_lr is None  # nothing was run there


def test_interpolation_is_a_straight_line_of_paired_draws_in_octaves(measured):
    answer = analyse(measured)
    low, high = (cell.curve.argmins() for cell in answer.batches if cell.batch in (128, 512))
    share = math.log2(200 / 128) / 2
    quantiles = np.quantile((1 - share) * low + share * high, (0.5, 0.025, 0.975))
    estimate = advise(Question(64, 0.1, 200), answer).evidence.best_lr
    quantiles[2] += curvature_allowance(2, share)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(tuple(2**quantiles))


def test_the_curvature_allowance_is_that_of_the_saturating_law():
    places = np.linspace(-15, 15, 3001)

    def law(place):
        return -np.log2(1 + 2.0**-place)

    for apart in (1, 2, 4):
        for share in (0.25, 0.5, 0.9):
            line = (1 - share) * law(places) + share * law(places + apart)
            above = (law(places + share * apart) - line).max()
            assert above - 1e-9 <= curvature_allowance(apart, share) <= 1.05 * above


def test_the_interval_covers_a_concave_law_between_the_neighbours():
    inside = 0
    for seed in range(5):
        best = evidence_of(runs_of(saturating, (32, 512), seed, noise=0.03), 32, 128).best_lr
        inside += best.low < saturating(128) < best.high
    assert inside >= 4


def test_a_concave_law_at_the_old_batch_lowers_the_ratio(measured):
    answer = analyse(measured)
    low, high = (cell.curve.argmins() for cell in answer.batches if cell.batch in (128, 512))
    evidence = advise(Question(256, 0.1, 512), answer).evidence
    assert evidence.ratio_between == (128, 512)
    lowest = np.quantile(high - (low + high) / 2, 0.025) - curvature_allowance(2, 0.5)
    assert evidence.ratio.low == pytest.approx(2**lowest)


@pytest.mark.parametrize("batch", [32, 1024])
def test_outside_of_what_was_measured_there_is_no_number(measured, batch):
    evidence = evidence_of(measured, 64, batch)
    assert evidence.best_lr is evidence.ratio is evidence.scaled_lr is None
    assert f"{batch} lies outside of what was measured (64 … 512)" in evidence.refusal.reason
    assert evidence.refusal.command == f"python -m pipeline.train batch={batch} -m"


def test_only_the_ratio_is_missing_where_the_old_batch_was_not_measured(measured):
    evidence = evidence_of(measured, 16, 512)
    assert evidence.best_lr is not None
    assert evidence.ratio is evidence.scaled_lr is None
    assert evidence.ratio_refusal.command == "python -m pipeline.train batch=16 -m"


def test_beside_a_censored_batch_nothing_is_interpolated(measured):
    runs = [run for run in measured if run.batch != 512 or run.lr < linear(512)]
    beside, at = evidence_of(runs, 64, 256), evidence_of(runs, 64, 512)
    assert beside.best_lr is at.best_lr is None
    assert "at 512 the best LR may lie above what was tried" in beside.refusal.reason
    assert beside.refusal.command == "python -m pipeline.train batch=256 -m"
    # What was searched already needs more trials: the same command alone would find nothing to do.
    assert at.refusal.command == "python -m pipeline.train batch=512 hydra.sweeper.n_trials=48 -m"
    assert evidence_of(runs, 64, 100).best_lr is not None


def test_too_few_runs_are_no_estimate(measured):
    runs = [run for run in measured if run.batch != 512] + [run for run in measured if run.batch == 512][:3]
    assert "too few usable runs" in evidence_of(runs, 64, 512).refusal.reason


def test_the_lowest_lr_that_failed_is_told():
    runs = runs_of(lambda size: 0.1, (64, 512), wall=0.3)
    advice = advise(Question(64, 0.1, 512), analyse(runs))
    assert advice.evidence.failing_lr == min(run.lr for run in runs if run.batch == 512 and run.failed)
    assert f"fails at 512: {advice.evidence.failing_lr:.2g}." in sentences(advice, "a table")[-1]


def test_at_the_batch_where_the_rule_starts_it_gets_no_verdict(measured):
    assert evidence_of(measured, 128, 64).linear is None
    assert evidence_of(measured, 128, 64, base_batch=128).linear == "holds"


def test_json_holds_the_same_and_nothing_that_json_does_not_know(measured):
    advice = advise(Question(64, 0.05, 512, **ADAM), analyse(measured))
    data = json.loads(json.dumps(asdict(advice), allow_nan=False))
    assert data["question"]["to_batch"] == 512
    assert data["rules"][1] | {"lr": 0.4} == data["rules"][1]
    assert data["evidence"]["best_lr"]["value"] == advice.evidence.best_lr.value
    assert asdict(advise(Question(64, 0.05, 512)))["evidence"] is None


@pytest.mark.parametrize("question", [Question(64, 0.05, 512), Question(64, 0.001, 640, **ADAM)])
def test_text_fits_a_hundred_columns_and_keeps_brackets(question, measured, capsys):
    print_advice(advise(question, analyse(measured)), "[red]sweep[/red]")
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    assert "By evidence, [red]sweep[/red]:" in said
    for line in ("linear", "sqrt", "needs --exponent"):
        assert line in said
