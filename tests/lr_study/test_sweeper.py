"""The sweeper in an app of its own: cells, replicates, failures, kills, locks and refusals."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import sqlalchemy
from optuna.storages._rdb.models import BaseModel
from optuna.trial import TrialState

from lr_study import storage
from lr_study.errors import SweepRequestError
from lr_study.storage import check_storage, open_storage, prepare_journal
from tests.lr_study.app import hand_out_tickets, wait_until
from tests.lr_study.inprocess import multirun, parabola, table, trials_of

APP = str(Path(__file__).parent / "app.py")
TWO_PROCESSES = ("hydra/launcher=processes", "hydra.launcher.n_jobs=2")


@pytest.fixture
def sweep(run_python, tmp_path):
    """Run the app's sweep; returns the finished process."""

    def run(*overrides, **environment):
        common = ("hydra.sweep.dir=out", "hydra.sweep.subdir=.", "hydra.sweeper.replicate_key=seed")
        return run_python(APP, "-m", *common, *overrides, **environment)

    run.folder = tmp_path
    return run


@contextlib.contextmanager
def driver_of(folder, *overrides):
    """Run the app's sweep in the background; it ends with the block."""
    common = ("hydra.sweep.dir=out", "hydra.sweep.subdir=.", "hydra.sweeper.replicate_key=seed")
    command = [sys.executable, APP, "-m", *common, *overrides]
    driver = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield driver
    except BaseException:
        driver.kill()
        raise
    finally:
        driver.wait()


def studies(folder):
    open_storage.cache_clear()
    storage = open_storage(str(folder / "out" / "optuna.journal"))
    return {s.study_name: s for s in optuna.get_all_study_summaries(storage)}, storage


def trials(folder, name):
    _, storage = studies(folder)
    return optuna.load_study(study_name=name, storage=storage).trials


def runs(folder):
    return [line.split() for line in (folder / "runs.log").read_text().splitlines()]


def count_runs(folder):
    """How many trials have begun."""
    return len(runs(folder)) if (folder / "runs.log").exists() else 0


def test_choices_make_cells_and_intervals_are_searched(sweep):
    done = sweep("size=1,2", "method=sgd,adam", "x=interval(0.0,4.0)", "hydra.sweeper.n_trials=5")
    assert done.returncode == 0, done.stderr
    names = sorted(studies(sweep.folder)[0])
    assert names == [f"app/size={size},method={name}" for size in (1, 2) for name in ("adam", "sgd")]
    counts = Counter((size, name) for size, name, *_ in runs(sweep.folder))
    assert set(counts.values()) == {5}
    for study in names:
        values = [t.value for t in trials(sweep.folder, study)]
        size = int(study.split("size=")[1][0])
        assert [(t.params["x"] - size) ** 2 for t in trials(sweep.folder, study)] == pytest.approx(values)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folder of a finished search with three replicates."""
    folder = tmp_path_factory.mktemp("searched")
    multirun(folder, "x=tag(log,interval(0.125,8.0))", "seed=7,8,9", "hydra.sweeper.n_trials=7")
    return folder


def test_the_configured_value_is_tried_first(searched):
    assert trials_of(searched)[0].params["x"] == 1.0


def test_without_an_interval_it_is_a_grid(tmp_path):
    points = []
    multirun(tmp_path, "size=1,2,3", "x=0.5,1.5", task=lambda cfg: points.append((cfg.size, cfg.x)))
    assert sorted(points) == [(size, x) for size in (1, 2, 3) for x in (0.5, 1.5)]


def test_the_trials_of_a_study_take_the_replicates_in_turn(searched):
    assert [t.user_attrs["replicate"] for t in trials_of(searched)] == ["7", "8", "9", "7", "8", "9", "7"]
    assert list(studies(searched)[0]) == ["app"]


def test_the_same_command_again_runs_nothing_and_more_trials_extend_the_sweep(tmp_path):
    begun = []

    def task(cfg):
        begun.append(cfg)
        return parabola(cfg)

    for n_trials in (3, 3, 5):
        search = ("x=tag(log,interval(0.125,8.0))", "seed=0,1", f"hydra.sweeper.n_trials={n_trials}")
        multirun(tmp_path, *search, task=task)
        assert len(begun) == n_trials
    assert [t.number for t in trials_of(tmp_path)] == list(range(5))


def test_the_same_command_in_another_folder_gives_the_same_table(searched, tmp_path):
    multirun(tmp_path, "x=tag(log,interval(0.125,8.0))", "seed=7,8,9", "hydra.sweeper.n_trials=7")
    assert table(tmp_path) == table(searched)
    assert len({str(params) for _, params, *_ in table(tmp_path).values()}) == 7


@pytest.mark.parametrize("fails", ["raise", "exit", "nan", "unpicklable"])
def test_a_failed_trial_is_recorded_and_the_sweep_continues(sweep, fails):
    done = sweep("x=interval(0.0,4.0)", "seed=0,1,2", "hydra.sweeper.n_trials=6", f"fails={fails}", *TWO_PROCESSES)
    assert done.returncode == 0, done.stderr
    found = trials(sweep.folder, "app")
    assert [t.state for t in found] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE] * 2
    expected = {"raise": "unlucky", "exit": "leaves", "nan": "NaN", "unpicklable": "no pickle"}[fails]
    assert all(expected in t.user_attrs["error"] for t in found if t.state is TrialState.FAIL)


def test_a_killed_worker_loses_its_own_trial_and_no_other(sweep):
    done = sweep(
        "x=interval(0.0,4.0)", "seed=0,1,2", "hydra.sweeper.n_trials=6", "fails=kill", "sleep=0.2", *TWO_PROCESSES
    )
    assert done.returncode == 0, done.stderr
    found = trials(sweep.folder, "app")
    assert [t.state for t in found] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE] * 2
    assert all("died" in t.user_attrs["error"] for t in found if t.state is TrialState.FAIL)


def test_a_sweep_whose_trials_all_fail_stops_after_its_first_wave(sweep):
    options = ("x=interval(0.0,4.0)", "hydra.sweeper.n_trials=50", "fails=always")
    done = sweep(*options, allow={"traceback": "the app leaves its errors to Hydra"})
    assert done.returncode == 1
    assert "this seed is unlucky" in done.stderr
    assert len(runs(sweep.folder)) == 2


def test_a_killed_sweep_is_finished_by_the_same_command(sweep, tmp_path):
    overrides = ("x=interval(0.0,4.0)", "seed=0,1,2", "hydra.sweeper.n_trials=8", "tickets=tickets")
    hand_out_tickets(tmp_path / "tickets", 2)
    with driver_of(tmp_path, *overrides) as driver:
        wait_until(lambda: count_runs(tmp_path) == 3, "the sweep's third trial")
        driver.send_signal(signal.SIGKILL)
    hand_out_tickets(tmp_path / "tickets", 8)
    done = sweep(*overrides)
    assert done.returncode == 0, done.stderr
    found = trials(tmp_path, "app")
    finished = [t for t in found if t.state is TrialState.COMPLETE]
    lost = [t for t in found if t.user_attrs.get("lost")]
    assert len(finished) == 8
    assert lost
    for trial in lost:
        (retry,) = [t for t in found if t.user_attrs.get("retry_of") == trial.number]
        assert retry.params == trial.params
        assert retry.user_attrs["replicate"] == trial.user_attrs["replicate"]
        assert retry.state is TrialState.COMPLETE


def test_a_second_driver_of_the_same_sweep_is_refused(sweep, tmp_path):
    overrides = ("x=interval(0.0,4.0)", "hydra.sweeper.n_trials=4", "tickets=tickets")
    with driver_of(tmp_path, *overrides) as first:
        wait_until(lambda: count_runs(tmp_path) == 1, "the first driver's first trial")
        second = sweep(*overrides, allow={"traceback": "the app leaves its errors to Hydra"})
        hand_out_tickets(tmp_path / "tickets", 4)
        assert first.wait(timeout=240) == 0
    assert second.returncode != 0
    assert "running already" in second.stderr
    assert len(runs(tmp_path)) == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("x=interval(3,1)", "from a smaller to a larger"),
        ("y=interval(0.0,1.0)", "there is no key y"),
        ("x=tag(log,interval(0.0,1.0))", "starts above 0"),
        ("seed=interval(0,3)", "replicates are listed"),
        ("x=interval(0.0,1.0) hydra.sweeper.sampler._target_=optuna.samplers.Nope", "Nope"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(sweep, override, message):
    options = (*override.split(), "hydra.sweeper.n_trials=3")
    done = sweep(*options, allow={"traceback": "the app leaves its errors to Hydra"})
    assert done.returncode != 0
    assert message in done.stderr
    assert list(sweep.folder.iterdir()) == []


def test_an_incomplete_last_line_is_removed_and_kept_in_a_copy(tmp_path):
    journal = tmp_path / "optuna.journal"
    journal.write_bytes(b'{"op_code": 0}\n{"op_co')
    prepare_journal(str(journal))
    assert journal.read_bytes() == b'{"op_code": 0}\n'
    assert (tmp_path / "optuna.torn").read_bytes().endswith(b'{"op_co')


def test_a_lock_is_released_when_its_process_dies(tmp_path):
    journal = tmp_path / "optuna.journal"
    program = (
        "import sys, time; from lr_study.storage import _KernelLock\n"
        "_KernelLock(sys.argv[1]).acquire(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(journal)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    started = time.monotonic()
    open_storage.cache_clear()
    optuna.create_study(storage=open_storage(str(journal)), study_name="s")
    assert time.monotonic() - started < 5


@pytest.fixture
def database(tmp_path, monkeypatch):
    """Make a SQLite file with some tables, and call a function instead of waiting; returns its URL."""

    def make(*tables, while_waiting):
        engine = sqlalchemy.create_engine(url := f"sqlite:///{tmp_path}/optuna.db")
        with engine.begin() as connection:
            for table in tables:
                connection.execute(sqlalchemy.text(f"CREATE TABLE {table} (id INTEGER)"))
        clock = itertools.count()
        time = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: while_waiting(engine))
        monkeypatch.setattr(storage, "time", time)
        return url

    return make


def test_the_check_waits_for_a_database_that_another_driver_is_making(database):
    check_storage(database("studies", "version_info", while_waiting=BaseModel.metadata.create_all))


@pytest.mark.parametrize("tables", [("studies",), ("trials", "version_info", "mine"), ("mine",)])
def test_a_database_that_is_not_optunas_is_refused_at_once_or_when_its_tables_stay_incomplete(database, tables):
    waits = []
    with pytest.raises(SweepRequestError, match="not Optuna's"):
        check_storage(database(*tables, while_waiting=waits.append))
    assert bool(waits) == (tables != ("mine",))  # with some of Optuna's tables, another driver may be making the rest


def test_discovery_imports_neither_optuna_nor_torch_nor_mlflow(run_python):
    program = (
        "import sys, json; from hydra.core.plugins import Plugins; Plugins.instance()\n"
        "print(json.dumps([m for m in ('optuna', 'torch', 'mlflow', 'pipeline') if m in sys.modules]))\n"
        "print('hydra_plugins.lr_study_sweeper.lr_study_sweeper' in sys.modules)"
    )
    done = run_python("-c", program, fresh=True)
    assert json.loads(done.stdout.splitlines()[0]) == []
    assert done.stdout.splitlines()[1] == "True"
