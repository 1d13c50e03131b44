"""A signal ends a sweep in order, also in a trial that runs in the driver's process, and whatever libraries make of it."""

import contextlib
import os
import signal

import pytest
from optuna.trial import TrialState

from tests.lr_study.inprocess import multirun, trials_of

SEARCH = ("x=interval(0.0,4.0)", "hydra.sweeper.n_trials=6", "hydra/launcher=basic")
ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit, signal.SIGHUP: SystemExit}


def passed_on(number):
    os.kill(os.getpid(), number)


def turned_into_another_error(number):
    """As an import of torch does that is cut in the middle."""
    try:
        os.kill(os.getpid(), number)
    except BaseException:
        raise TypeError("cannot set METH_CLASS and METH_STATIC") from None


def swallowed(number):
    """As Python does with an exception in a finalizer or a callback of C code."""
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
@pytest.mark.parametrize("made_of_it", [passed_on, turned_into_another_error, swallowed], ids=lambda f: f.__name__)
def test_a_signal_in_a_trial_ends_the_sweep_and_is_no_fault_of_the_trial(tmp_path, number, made_of_it):
    begun = []

    def task(cfg):
        begun.append(cfg.x)
        if len(begun) == 2:
            made_of_it(number)
        return cfg.x

    before = signal.getsignal(number)
    with pytest.raises(ENDS[number]) as end:
        multirun(tmp_path, *SEARCH, task=task)
    if number != signal.SIGINT:
        assert end.value.code == 128 + number
    assert signal.getsignal(number) is before
    failed = [trial for trial in trials_of(tmp_path) if trial.state is TrialState.FAIL]
    assert all(trial.user_attrs["interrupted"] for trial in failed)
    assert len(begun) <= 4, "no further wave was run"


def test_the_same_command_runs_what_the_signal_cut_off(tmp_path):
    begun = []

    def task(cfg):
        begun.append(cfg.x)
        if len(begun) == 2:
            turned_into_another_error(signal.SIGTERM)
        return cfg.x

    with pytest.raises(SystemExit):
        multirun(tmp_path, *SEARCH, task=task)
    multirun(tmp_path, *SEARCH, task=task)
    assert sum(trial.state is TrialState.COMPLETE for trial in trials_of(tmp_path)) == 6


def test_a_trial_that_leaves_by_itself_is_a_failed_one(tmp_path):
    def task(cfg):
        raise SystemExit(3)

    multirun(tmp_path, *SEARCH, "hydra.sweeper.max_failure_rate=1", task=task)
    trials = trials_of(tmp_path)
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 6
    assert {trial.user_attrs["error"] for trial in trials} == {"SystemExit: 3"}
