"""Laws over batch sizes: closed forms, intervals, and what is not named."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.stats.laws import LAWS, fit_exponent, fit_laws, fit_published, select_law
from pipeline.analysis.stats.optima import Optima, read_optima
from pipeline.analysis.text.laws import law_sentences
from pipeline.errors import RequestError
from pipeline.recipe import scaling

BATCHES = np.array([8, 16, 32, 64, 128, 256, 512, 1024], dtype=float)


def known(octaves, sd=0.1, correlation=0.0):
    n = len(octaves)
    covariance = sd**2 * ((1 - correlation) * np.eye(n) + correlation * np.ones((n, n)))
    return Optima(BATCHES[:n], np.asarray(octaves, dtype=float), covariance)


@pytest.mark.parametrize("rule", sorted(set(LAWS) & set(scaling.RULES)))
def test_a_law_is_the_scaling_rule_of_its_name(rule):
    values = {"exponent": 0.7, "noise_scale": 90.0}
    parameters = {name: values[name] for name in scaling.RULES[rule].parameters}
    octaves = LAWS[rule].octaves(BATCHES, np.array(list(parameters.values()) or [0.0]))[0]
    settings = scaling.Scaling(rule=rule, base_batch=64, **parameters)
    expected = [math.log2(scaling.scale_lr(settings, 1.0, int(batch))) for batch in BATCHES]
    assert octaves - octaves[3] == pytest.approx(expected, abs=1e-9)
    assert LAWS[rule].parameter in (None, *parameters)


def test_every_scaling_rule_is_fitted_but_the_one_that_scales_the_lr_as_sqrt_does():
    # A new rule fails here: add its formula to LAWS, or its name to this test if reports should not fit it.
    assert set(scaling.RULES) - set(LAWS) == {"adam_sde"}


def test_surge_rises_as_the_root_peaks_at_its_noise_scale_and_falls():
    octaves = LAWS["surge"].octaves(BATCHES, np.array([128.0]))[0]
    assert BATCHES[octaves.argmax()] == 128
    assert octaves[4] - octaves[3] == pytest.approx(octaves[4] - octaves[5])  # the same either side


def test_the_exponent_is_that_of_generalised_least_squares():
    rng = np.random.default_rng(0)
    found = known(0.7 * np.log2(BATCHES) + rng.normal(0, 0.1, 8), correlation=0.4)
    x = np.column_stack([np.ones(8), np.log2(BATCHES)])
    inverse = np.linalg.inv(found.covariance)
    covariance = np.linalg.inv(x.T @ inverse @ x)
    expected = (covariance @ x.T @ inverse @ found.octaves)[1]
    slope = fit_exponent(found)
    assert slope.value == pytest.approx(expected)
    assert slope.high - slope.low == pytest.approx(2 * stats.norm.ppf(0.975) * math.sqrt(covariance[1, 1]))
    power = next(law for law in fit_laws(found, 64, [8, 64]) if law.rule == "power")
    assert power.parameters["exponent"].value == pytest.approx(expected, abs=0.005)


def test_a_saturating_law_is_found_with_its_noise_scale_and_named():
    found = known(-np.log2(1 + 100 / BATCHES), sd=0.05)
    laws = fit_laws(found, 64, [8, 64, 1024])
    assert select_law(laws) == laws[0].rule == "saturating"
    estimate = laws[0].parameters["noise_scale"]
    assert estimate.low < 100 < estimate.high < 4 * estimate.low
    assert laws[0].lrs == pytest.approx([2 ** -math.log2(1 + 100 / b) for b in (8, 64, 1024)], rel=0.05)
    assert sum(law.weight for law in laws) == pytest.approx(1)


def test_a_noise_scale_that_the_data_do_not_bound_is_not_identifiable():
    laws = fit_laws(known(np.log2(BATCHES), sd=0.3), 64, [64])  # linear is true: any large noise scale fits
    saturating = next(law for law in laws if law.rule == "saturating")
    assert saturating.note == "not identifiable"
    assert saturating.parameters["noise_scale"].high == math.inf
    assert select_law(laws) is None


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(300):
        laws = fit_laws(known(-np.log2(1 + 100 / BATCHES) + rng.normal(0, 0.15, 8), sd=0.15), 64, [64])
        law = next(law for law in laws if law.rule == "saturating")
        truth = {"noise_scale": 100.0, "lr_at_base": 1 / (1 + 100 / 64)}
        hits += [e.low <= truth[name] <= e.high for name, e in law.parameters.items()]
    assert 0.92 <= np.mean(hits) <= 0.98


def test_too_few_batch_sizes_name_nothing():
    assert fit_exponent(known([1.0, 2.0])) is None
    assert fit_laws(known([1.0, 2.0]), 8, [8]) == ()
    for count in range(3, 9):  # linear is exactly true, and power contains it
        assert select_law(fit_laws(known(np.log2(BATCHES[:count]), sd=0.1), 8, [8])) is None


def test_a_law_that_does_not_fit_is_not_named_however_much_worse_the_others_are():
    wiggly = -np.log2(1 + 100 / BATCHES) + 0.15 * np.array([1, -1, 1, -1, 1, -1, 1, -1])
    laws = fit_laws(known(wiggly, sd=0.05), 64, [64])
    assert laws[0].weight > 0.9
    assert laws[0].fit_p_value < 0.05
    assert select_law(laws) is None
    assert any("None of 7 laws fits; the least bad" in line for line in law_sentences(known(wiggly), None, laws, None))


def test_without_intervals_the_exponent_has_students_t_and_no_law_is_preferred(tmp_path):
    path = tmp_path / "optima.csv"
    octaves = np.array([0.0, 0.6, 0.9, 1.6])
    rows = [f"{int(b)},{2**o}" for b, o in zip(BATCHES[:4], octaves, strict=True)]
    path.write_text("\n".join(["batch,best_lr", *rows]) + "\n")
    slope, laws, best = fit_published(read_optima(path), None)
    expected = stats.linregress(np.log2(BATCHES[:4]), octaves)
    assert slope.value == pytest.approx(expected.slope)
    assert slope.high - slope.value == pytest.approx(stats.t.ppf(0.975, 2) * expected.stderr)
    assert (laws, best) == ((), None)
    assert any("no law can be told" in line for line in law_sentences(read_optima(path), slope, laws, best))


def test_optima_come_as_json_lines_too(tmp_path):
    path = tmp_path / "optima.jsonl"
    path.write_text("".join(json.dumps({"batch": int(b), "best_lr": 0.1 * b}) + "\n" for b in BATCHES))
    assert fit_published(read_optima(path), None)[0].value == pytest.approx(1)


def test_a_table_of_published_optima_gets_the_law_alone(tmp_path):
    path = tmp_path / "optima.csv"
    lines = [f"{int(b)},{0.1 * (b / 64) ** 0.5}" for b in BATCHES]
    path.write_text("\n".join(["batch,best_lr", *reversed(lines)]) + "\n")
    slope, _, _ = fit_published(read_optima(path), None)
    assert slope.value == pytest.approx(0.5, abs=1e-6)
    lines = [f"{int(b)},{lr},{0.9 * lr},{1.1 * lr}" for b in BATCHES for lr in [0.1 * (b / 64) ** 0.5]]
    path.write_text("\n".join(["batch,best_lr,ci_low,ci_high", *lines]) + "\n")
    slope, laws, _ = fit_published(read_optima(path), None)
    assert slope.value == pytest.approx(0.5, abs=1e-6)
    # Power contains sqrt, and so does surge far from its noise scale.
    assert laws[0].rule == "sqrt"
    assert {law.rule for law in laws if law.weight > 1e-3} == {"sqrt", "power", "surge"}


@pytest.mark.parametrize(
    "text",
    [
        "batch,best_lr\n8,0.1\n16,0.2\n32,0.4",
        *(f"batch,best_lr\n8,{lr}\n" for lr in ("x", "-1", "inf", "nan")),
        "batch,best_lr\n,0.1\n",
    ],
)
def test_a_wrong_table_of_optima_is_refused(tmp_path, text):
    path = tmp_path / "optima.csv"
    path.write_text(text)
    with pytest.raises(RequestError):
        read_optima(path)
