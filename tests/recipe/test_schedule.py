"""Schedules against closed forms."""

import math

import pytest

from pipeline.errors import RequestError
from pipeline.recipe.schedule import Schedule, make_schedule


def test_cosine_follows_half_a_cosine_after_warmup():
    schedule = make_schedule(Schedule(name="cosine", warmup_fraction=10 / 110, final_factor=0.1), 110, 22.0)
    for step in range(10, 110):
        expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 100))
        assert schedule(step) == pytest.approx(expected, rel=1e-12)


def test_warmup_rises_in_equal_increments_and_meets_the_full_lr():
    schedule = make_schedule(Schedule(name="constant", warmup_epochs=0.16), 100, 25.0)
    assert [schedule(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(("batch", "steps"), [(8, 625), (32, 156), (128, 39)])
def test_warmup_in_epochs_covers_the_same_examples_at_every_batch(batch, steps):
    total = 5 * steps
    schedule = make_schedule(Schedule(name="constant", warmup_epochs=1), total, 5000 / batch)
    rising = sum(schedule(step) < 1 for step in range(total))
    assert abs(rising * batch - 5000) <= batch / 2


def test_linear_falls_straight_to_its_final_factor():
    schedule = make_schedule(Schedule(name="linear", final_factor=0.5), 100, 20.0)
    assert (schedule(0), schedule(50), schedule(99)) == pytest.approx((1.0, 0.75, 0.505))


def test_step_multiplies_at_each_milestone():
    schedule = make_schedule(Schedule(name="step", milestones=[1 / 3, 2 / 3], gamma=0.1), 90, 9.0)
    assert [schedule(step) for step in (0, 29, 30, 59, 60, 89)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("cosin", {}, "constant, cosine, step, linear"),
        ("cosine", {}, "needs schedule.final_factor"),
        ("constant", {"gamma": 0.1}, "schedule.gamma is not used by schedule=constant"),
        ("cosine", {"final_factor": 2.0}, "from 0 to 1"),
        ("step", {"gamma": 0.1, "milestones": [30]}, "fractions of the run"),
        ("constant", {"warmup_fraction": 1.0}, "below 1"),
        ("constant", {"warmup_fraction": -0.1}, "at least 0"),
        ("constant", {"warmup_epochs": 1.0, "warmup_fraction": 0.1}, "exclude each other"),
        ("constant", {"warmup_epochs": 10.0}, r"schedule\.warmup_epochs=10\.0.*fills the whole run"),
        ("constant", {"warmup_fraction": 0.996}, r"schedule\.warmup_fraction=0\.996.*fills the whole run"),
    ],
)
def test_wrong_keys_and_values_are_refused(name, keys, message):
    with pytest.raises(RequestError, match=message):
        make_schedule(Schedule(name=name, **keys), 100, 20.0)
