"""Scaling rules against tables of numbers worked out by hand."""

import math

import pytest

from pipeline.errors import RequestError
from pipeline.recipe.scaling import RULES, Scaling, scale_betas, scale_eps, scale_factor, scale_lr, scale_weight_decay

TABLE = [
    # rule, base batch, batch, parameters, factor
    ("fixed", 64, 1024, {}, 1.0),
    ("linear", 256, 8192, {}, 32.0),  # Goyal et al. 2017: 0.1 at 256 becomes 3.2 at 8192
    ("linear", 64, 16, {}, 0.25),
    ("sqrt", 64, 256, {}, 2.0),
    ("sqrt", 128, 2, {}, 0.125),
    ("power", 64, 1024, {"exponent": 0.75}, 8.0),
    ("power", 64, 16, {"exponent": 0.5}, 0.5),
    ("saturating", 100, 300, {"noise_scale": 300.0}, 2.0),  # (1+3)/(1+1)
    ("saturating", 1000, 100, {"noise_scale": 1000.0}, 2 / 11),
    ("adam_sde", 64, 256, {}, 2.0),
    ("surge", 100, 400, {"noise_scale": 400.0}, 1.25),  # ½(2+½) / ½(1+1)
    ("surge", 400, 1600, {"noise_scale": 400.0}, 0.8),  # falls beyond the peak
]


@pytest.mark.parametrize(("rule", "base", "batch", "parameters", "expected"), TABLE)
def test_each_rule_gives_the_number_of_its_formula(rule, base, batch, parameters, expected):
    assert scale_factor(Scaling(rule=rule, base_batch=base, **parameters), batch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_leaves_the_base_lr_alone_at_the_base_batch(rule):
    parameters = {"exponent": 0.7, "noise_scale": 500.0}
    wanted = {name: parameters[name] for name in RULES[rule].parameters}
    assert scale_lr(Scaling(rule=rule, base_batch=96, **wanted), 0.3, 96) == pytest.approx(0.3, rel=1e-12)


def test_saturating_has_the_local_exponents_of_its_source():
    # science: local exponent 1/(1 + B/Bn), so 0.91 at B = 0.1·Bn, 0.5 at Bn, 0.2 at 4·Bn
    for batch, exponent in ((1_000, 0.909), (10_000, 0.5), (40_000, 0.2)):
        up = scale_factor(Scaling(rule="saturating", base_batch=64, noise_scale=10_000.0), batch + 1)
        down = scale_factor(Scaling(rule="saturating", base_batch=64, noise_scale=10_000.0), batch - 1)
        assert math.log(up / down) / math.log((batch + 1) / (batch - 1)) == pytest.approx(exponent, abs=1e-3)


def test_a_rule_without_its_parameter_or_with_anothers_is_refused():
    with pytest.raises(RequestError, match=r"scaling=power needs scaling\.exponent"):
        scale_factor(Scaling(rule="power", base_batch=64), 128)
    with pytest.raises(RequestError, match=r"scaling\.exponent=0\.5 is not used by the rule linear"):
        scale_factor(Scaling(rule="linear", base_batch=64, exponent=0.5), 128)


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(RequestError, match="fixed, linear, sqrt, power, saturating, adam_sde, surge"):
        scale_factor(Scaling(rule="liner", base_batch=64), 128)


@pytest.mark.parametrize(
    ("base_lr", "base_batch", "batch"),
    [
        (0, 64, 64),
        (-0.1, 64, 64),
        (math.nan, 64, 64),
        (math.inf, 64, 64),
        (0.1, 0, 64),
        (0.1, 64, -4),
        (0.1, 64, 2.5),
        (0.1, 64, True),
    ],
)
def test_what_is_not_positive_is_refused(base_lr, base_batch, batch):
    with pytest.raises(RequestError):
        scale_lr(Scaling(rule="linear", base_batch=base_batch), base_lr, batch)


def test_adam_sde_keeps_kappa_times_one_minus_beta():
    assert scale_betas(Scaling(rule="adam_sde", base_batch=64), (0.9, 0.999), 256) == pytest.approx((0.6, 0.996))
    assert scale_betas(Scaling(rule="adam_sde", base_batch=64), (0.9, 0.999), 16) == pytest.approx((0.975, 0.99975))
    assert scale_eps(Scaling(rule="adam_sde", base_batch=64), 1e-8, 256) == pytest.approx(5e-9)
    assert scale_betas(Scaling(rule="sqrt", base_batch=64), (0.9, 0.999), 256) == (0.9, 0.999)
    assert scale_eps(Scaling(rule="sqrt", base_batch=64), 1e-8, 256) == 1e-8


def test_adam_sde_ends_where_kappa_times_one_minus_beta_reaches_one():
    assert scale_betas(Scaling(rule="adam_sde", base_batch=64), (0.9, 0.999), 639)[0] > 0
    with pytest.raises(RequestError, match="at most 639"):
        scale_betas(Scaling(rule="adam_sde", base_batch=64), (0.9, 0.999), 640)


def test_weight_decay_per_epoch_keeps_lr_times_decay_times_steps():
    base_lr, base_decay, base_steps = 0.1, 0.01, 1000
    for rule in ("linear", "sqrt", "fixed"):
        factor = scale_factor(Scaling(rule=rule, base_batch=64), 512)
        decay = scale_weight_decay(Scaling(rule=rule, base_batch=64, weight_decay="per_epoch"), base_decay, 512)
        assert base_lr * factor * decay * base_steps / 8 == pytest.approx(base_lr * base_decay * base_steps)
    assert scale_weight_decay(Scaling(rule="linear", base_batch=64), 0.01, 512) == 0.01
    with pytest.raises(RequestError, match="fixed, per_epoch"):
        scale_weight_decay(Scaling(rule="linear", base_batch=64, weight_decay="linear"), 0.01, 512)
