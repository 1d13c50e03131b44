"""A job that is still queued when its launcher fails may be started twice; its trial runs once."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from lr_study import SweepFailedError, trial_task
from lr_study.process import _start_ticks, this_process
from lr_study.storage import open_storage
from tests.lr_study import stub
from tests.lr_study.inprocess import multirun, trials_of


@pytest.fixture
def other():
    """Another process, which lives until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def relaunched(tmp_path, monkeypatch, other):
    """Run a sweep whose launcher fails at first, and whose trial another process takes before it is launched again.

    Returns the trials that ran here.
    """

    def run(while_waiting, silent=0.0):
        waves, run_here, waited_for = [], [], []
        started = _start_ticks(other.pid)  # now: it can't be read once the process has died
        storage = str(tmp_path / "out" / "optuna.journal")

        def launch(launcher, overrides, initial_job_idx):
            waves.append(overrides)
            if len(waves) == 1:
                raise ConnectionError("the queue doesn't answer")
            waited_for[:] = [launcher.task_function.jobs[initial_job_idx].trial_id]
            process = this_process() | {"pid": other.pid, "started": started, "time": time.time() - silent}
            open_storage(storage).set_trial_user_attr(waited_for[0], "process", process)
            return launch_in_stub(launcher, overrides, initial_job_idx)

        def task(cfg):
            run_here.append(cfg)
            return 1.0

        stub.register()
        launch_in_stub = stub.StubLauncher.launch
        monkeypatch.setattr(stub.StubLauncher, "launch", launch)
        clock = SimpleNamespace(
            time=time.time,
            perf_counter=time.perf_counter,
            sleep=lambda seconds: while_waiting(open_storage(storage), waited_for[0]),
        )
        monkeypatch.setattr(trial_task, "time", clock)
        multirun(tmp_path, "x=interval(0.5,2.0)", "hydra.sweeper.n_trials=2", "hydra/launcher=stub", task=task)
        return run_here

    return run


def test_the_second_job_waits_until_the_trial_has_ended(tmp_path, relaunched):
    def ends(storage, trial_id):
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [2.0])

    assert relaunched(ends) == []
    assert [t.values for t in trials_of(tmp_path)] == [[2.0], [2.0]]


def test_the_second_job_runs_the_trial_when_the_first_process_dies(tmp_path, relaunched, other):
    def dies(storage, trial_id):
        other.kill()
        other.wait()

    assert len(relaunched(dies)) == 2
    assert {t.state for t in trials_of(tmp_path)} == {TrialState.COMPLETE}


def test_the_second_job_does_not_wait_for_a_process_without_a_sign_of_life(tmp_path, relaunched):
    with pytest.raises(SweepFailedError, match="without a result"):
        relaunched(lambda *waiting: pytest.fail("it waited"), silent=2 * trial_task.SILENT_SECONDS)
    assert {t.state for t in trials_of(tmp_path)} == {TrialState.FAIL}
