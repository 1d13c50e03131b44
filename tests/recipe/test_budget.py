"""Budgets: what stays equal as the batch grows."""

import pytest

from pipeline.errors import RequestError
from pipeline.recipe.budget import Budget, plan_training


@pytest.mark.parametrize("batch", [1, 7, 32, 64, 100, 999, 1077])
def test_an_epoch_budget_sees_the_same_examples_to_within_half_a_batch(batch):
    plan = plan_training(Budget(kind="epochs", epochs=5), batch, 1077)
    assert abs(plan.total_steps * batch - 5 * 1077) <= batch / 2


def test_a_step_budget_is_the_same_number_of_steps_at_every_batch():
    assert {plan_training(Budget(kind="steps", steps=300), batch, 1000).total_steps for batch in (1, 10, 1000)} == {300}


def test_an_example_budget_is_divided_by_the_batch_and_rounded():
    assert plan_training(Budget(kind="examples", examples=5000), 64, 1000).total_steps == 78
    assert plan_training(Budget(kind="examples", examples=10), 1000, 1000).total_steps == 1


def test_evaluations_come_once_an_epoch_and_at_the_end():
    plan = plan_training(Budget(kind="epochs", epochs=5), 64, 1077)
    assert plan.evaluation_steps == (17, 34, 50, 67, 84)
    assert plan_training(Budget(kind="epochs", epochs=0.5), 64, 1000).evaluation_steps == (8,)
    assert plan_training(Budget(kind="epochs", epochs=1.5), 100, 1000).evaluation_steps == (10, 15)


def test_a_target_budget_evaluates_as_often_as_asked():
    plan = plan_training(
        Budget(kind="target", metric="val/error", threshold=0.1, eval_examples=250, max_epochs=1), 100, 1000
    )
    assert plan.evaluation_steps == (2, 5, 8, 10)
    assert plan.target == ("val/error", 0.1)


def test_evaluations_closer_than_a_batch_are_not_repeated():
    plan = plan_training(
        Budget(kind="target", metric="val/error", threshold=0.1, eval_examples=100, max_epochs=2), 500, 1000
    )
    assert plan.evaluation_steps == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("kind", "batch", "values", "message"),
    [
        ("epoch", 1, {}, "epochs, steps, examples, target"),
        ("epochs", 1001, {"epochs": 1}, "larger than the training split of 1000 examples"),
        ("epochs", 0, {"epochs": 1}, "batch=0"),
        ("epochs", 10, {"epochs": 0}, "above 0"),
        ("epochs", 10, {}, "needs budget.epochs"),
        ("epochs", 10, {"epochs": 1, "steps": 5}, "budget.steps is not used"),
        ("steps", 10, {"steps": 0}, "whole number from 1 up"),
        ("target", 10, {"metric": "loss", "threshold": 1, "max_epochs": 1}, "val/loss, val/error"),
    ],
)
def test_wrong_budgets_are_refused(kind, batch, values, message):
    with pytest.raises(RequestError, match=message):
        plan_training(Budget(kind=kind, **values), batch, 1000)
