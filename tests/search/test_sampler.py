"""SpreadSampler brackets the best LR, then spreads trials around it."""

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from pipeline.search import SpreadSampler

LOW, HIGH = 0.1 / 32, 0.1 * 32


def search(loss, trials=24, seeds=3, at_once=1, low=LOW, high=HIGH):
    """Run a study as the sweeper does: queue the start, take the seeds in turn, keep `at_once` trials running.

    Returns log2 of the LR of each trial.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=SpreadSampler())
    study.enqueue_trial({"lr": 0.1})
    done = 0
    while done < trials:
        wave = []
        for _ in range(min(at_once, trials - done)):
            trial = study.ask({"lr": FloatDistribution(low, high, log=True)})
            trial.set_user_attr("replicate", trial.number % seeds)
            wave.append(trial)
        for trial in wave:
            value = loss(math.log2(trial.params["lr"]), trial.number % seeds)
            if value is None:
                trial.set_user_attr("status", "diverged")
            study.tell(trial, 20.0 if value is None else value)
            done += 1
    return [math.log2(trial.params["lr"]) for trial in study.trials]


def bowl(best, wall=math.inf, noise=0.0):
    """A loss curve with its minimum at `best` octaves, on which runs diverge from `wall` on."""
    rng = np.random.default_rng(0)

    def loss(x, seed):
        if x >= wall:
            return None
        return 0.2 * math.exp(0.1 * (x - best) ** 2 + 0.05 * seed + noise * rng.standard_normal())

    return loss


START = math.log2(0.1)


def test_it_tries_the_start_first_then_a_quarter_of_it_and_four_times_it():
    assert search(bowl(START))[:3] == pytest.approx([START, START - 2, START + 2])


@pytest.mark.parametrize("shift", [-4.5, -3, -1, 0, 1.3, 3, 4.5])
@pytest.mark.parametrize("at_once", [1, 4])
def test_most_trials_lie_within_1_75_octaves_of_the_best_on_both_sides(shift, at_once):
    octaves = search(bowl(START + shift, noise=0.02), at_once=at_once)
    near = [x for x in octaves if abs(x - START - shift) <= 1.75]
    assert len(near) >= 15
    assert min(near) < START + shift < max(near)


def test_it_stays_below_the_lowest_lr_that_failed():
    wall = START + 0.6
    octaves = search(bowl(START, wall=wall))
    assert sum(x >= wall for x in octaves) <= 2
    assert max(octaves[8:]) < wall


def test_it_lowers_the_lr_while_every_trial_fails():
    octaves = search(bowl(START - 4, wall=START - 3))
    assert sum(x < START - 3 for x in octaves) >= 18


def test_no_lr_is_tried_twice_with_the_same_seed():
    for shift in (-4.9, 0, 4.9):
        octaves = search(bowl(START + shift, wall=START + 5), seeds=3)
        pairs = {(round(x, 6), number % 3) for number, x in enumerate(octaves)}
        assert len(pairs) == 24


@pytest.mark.parametrize("shift", [-9, 9])
def test_it_stays_in_the_interval(shift):
    octaves = search(bowl(START + shift))
    assert min(octaves) >= math.log2(LOW) - 1e-9
    assert max(octaves) <= math.log2(HIGH) + 1e-9


def test_equal_results_give_equal_proposals():
    assert search(bowl(START + 1, noise=0.1)) == search(bowl(START + 1, noise=0.1))


def test_other_parameters_are_sampled_at_random_from_the_seed():
    def ask(seed):
        study = optuna.create_study(sampler=SpreadSampler(seed))
        return study.ask({"momentum": FloatDistribution(0, 1)}).params["momentum"]

    assert ask(1) == ask(1) != ask(2)


def test_running_trials_count_as_points_but_failed_ones_without_a_result_do_not():
    study = optuna.create_study(sampler=SpreadSampler())
    space = {"lr": FloatDistribution(LOW, HIGH, log=True)}
    study.enqueue_trial({"lr": 0.1})
    first = study.ask(space)
    assert study.ask(space).params["lr"] == pytest.approx(0.025)
    study.tell(first, state=TrialState.FAIL)
    assert study.ask(space).params["lr"] != pytest.approx(0.025)
