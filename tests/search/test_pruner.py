"""FarPruner: which runs it ends, and which it never ends."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from pipeline.search import FarPruner

KEY = "optimizer.lr"
SPACE = {KEY: FloatDistribution(1e-4, 10, log=True)}


def trial(lr, curve, wave, state=TrialState.COMPLETE, status="complete"):
    return create_trial(
        state=state,
        value=curve[-1] if state is TrialState.COMPLETE else None,
        params={KEY: lr},
        distributions=SPACE,
        user_attrs={"wave": [wave, 1, 0, 1], "last_step": 8, "status": status},
        intermediate_values=dict(enumerate(curve, start=1)),
    )


@pytest.fixture
def finished():
    """A study whose best LR is 0.1, from five finished runs of the first wave."""
    study = optuna.create_study()
    for lr, final in ((0.025, 0.6), (0.05, 0.5), (0.1, 0.4), (0.2, 0.5), (0.4, 0.6)):
        study.add_trial(trial(lr, [2.0, 1.5, 1.0, 0.9, 0.8, 0.7, 0.6, final], wave=0))
    return study


def prunes(study, lr, curve, wave=1):
    running = trial(lr, curve, wave, state=TrialState.RUNNING)
    return FarPruner().prune(study, running)


def test_a_worse_run_three_octaves_away_ends_after_a_quarter_of_its_budget(finished):
    assert not prunes(finished, 0.1 / 9, [2.2])
    assert prunes(finished, 0.1 / 9, [2.2, 1.9])
    assert prunes(finished, 0.1 * 9, [2.2, 1.9])


@pytest.mark.parametrize("factor", [1 / 7.9, 1 / 4, 1 / 2, 1, 2, 4, 7.9])
def test_a_nearer_run_never_ends_however_bad_it_looks(finished, factor):
    assert not prunes(finished, 0.1 * factor, [9.0, 9.0, 9.0, 9.0])


def test_a_far_run_that_looks_better_continues(finished):
    assert not prunes(finished, 0.1 * 16, [1.0, 0.5])


def test_runs_of_the_same_wave_and_failed_runs_are_ignored(finished):
    study = optuna.create_study()
    for other in finished.trials:
        study.add_trial(other)
    assert not prunes(study, 0.1 / 9, [2.2, 1.9], wave=0)
    for _ in range(3):
        study.add_trial(trial(0.012, [1.0, 0.1, 0.1], wave=0, status="stalled"))
    assert prunes(study, 0.1 / 9, [2.2, 1.9])


def test_a_run_at_its_last_epoch_never_ends_and_one_finished_run_is_too_few(finished):
    assert not prunes(finished, 0.1 / 9, [2.2] * 8)
    few = optuna.create_study()
    few.add_trial(trial(0.1, [1.0, 0.5], wave=0))
    assert not prunes(few, 0.1 / 100, [2.2, 1.9])


@pytest.mark.parametrize("arguments", [{"octaves": 1.0}, {"share": 0.0}, {"share": 1.5}])
def test_settings_that_could_bias_the_best_lr_are_refused(arguments):
    with pytest.raises(ValueError, match="octaves="):
        FarPruner(**arguments)
