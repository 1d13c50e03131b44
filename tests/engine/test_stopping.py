"""What counts as a failed run."""

import math

import pytest

from pipeline.engine import Evaluation, FitResult, objective_value
from pipeline.engine.stopping import DivergenceMonitor
from pipeline.recipe.budget import TrainingPlan

GUESS = math.log(10)


def watched(*windows, start=2.3):
    monitor = DivergenceMonitor(GUESS, start_loss=start)
    return monitor, [monitor.diverged(loss) for loss in windows]


def test_ten_times_the_start_or_a_non_finite_loss_is_divergence():
    assert watched(2.0, 22.9)[1] == [False, False]
    assert watched(23.5)[1] == [True]
    assert watched(math.nan)[1] == [True]
    assert watched(math.inf)[1] == [True]


def test_a_lucky_first_batch_does_not_make_a_healthy_run_diverge():
    assert watched(2.4, start=0.1)[1] == [False]


@pytest.mark.parametrize(
    ("windows", "final", "stalled"),
    [
        ((2.3, 5.0, 2.31), 2.31, True),  # up, and back to the constant guess
        ((2.3, 5.0, 1.2), 1.2, False),  # up, and recovered
        ((2.3, 2.29, 2.28), 2.28, False),  # slow, never went up
        ((2.3, 2.31, 2.32), 2.32, False),  # noise around the start
    ],
)
def test_stalled_means_up_and_not_back(windows, final, stalled):
    monitor, _ = watched(*windows)
    assert monitor.stalled(final) is stalled


def result(status, **metrics):
    evaluations = [Evaluation(1, 80, metrics)] if metrics else []
    return FitResult(status, 80, evaluations)


@pytest.mark.parametrize(
    ("loss", "bounded"), [(1.0, 1.0), (1e9, 10 * GUESS), (math.nan, 10 * GUESS), (math.inf, 10 * GUESS)]
)
def test_a_failed_runs_loss_is_bounded(loss, bounded):
    plan = TrainingPlan(100, (100,), 20.0)
    assert objective_value("val/loss", result("complete", **{"val/loss": loss}), plan, GUESS) == pytest.approx(bounded)


def test_the_objective_is_finite_however_a_run_ends():
    plan, target = TrainingPlan(100, (100,), 20.0), TrainingPlan(100, (100,), 20.0, ("val/error", 0.1))
    assert objective_value("val/loss", result("complete", **{"val/loss": 0.5}), plan, GUESS) == 0.5
    assert objective_value("val/loss", result("stalled", **{"val/loss": 2.31}), plan, GUESS) == 2.31
    assert objective_value("val/loss", result("diverged"), plan, GUESS) == pytest.approx(10 * GUESS)
    assert objective_value("val/error", result("diverged"), plan, GUESS) == 1.0
    assert objective_value("val/error", result("complete", **{"val/error": 0.1}), plan, GUESS) == 0.1
    assert objective_value("val/loss", result("complete", **{"val/loss": 0.5}), target, GUESS) == 80
    assert objective_value("val/loss", result("missed", **{"val/loss": 0.5}), target, GUESS) == 100
