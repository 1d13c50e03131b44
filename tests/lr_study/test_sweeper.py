"""The sweeper, in an app of its own and in real processes."""

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
    """The app's sweep in the background; it doesn't outlive the block."""
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
    """How many trials were begun; none where there is no log yet."""
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


def test_the_configured_value_is_tried_first(sweep):
    sweep("x=interval(0.0,4.0)", "hydra.sweeper.n_trials=2")
    assert trials(sweep.folder, "app")[0].params["x"] == 1.0


def test_without_an_interval_it_is_a_grid(sweep):
    done = sweep("size=1,2,3", "x=0.5,1.5")
    assert done.returncode == 0, done.stderr
    assert sorted((size, x) for size, _, _, x in runs(sweep.folder)) == [
        (str(size), x) for size in (1, 2, 3) for x in ("0.5", "1.5")
    ]


def test_replicates_rotate_inside_a_study_and_make_no_cells(sweep):
    sweep("seed=7,8,9", "x=interval(0.0,4.0)", "hydra.sweeper.n_trials=7")
    assert [seed for _, _, seed, _ in runs(sweep.folder)] == ["7", "8", "9", "7", "8", "9", "7"]
    assert list(studies(sweep.folder)[0]) == ["app"]


def test_the_same_command_again_runs_nothing_and_more_trials_extend_it(sweep):
    overrides = ("x=interval(0.0,4.0)", "seed=0,1")
    sweep(*overrides, "hydra.sweeper.n_trials=3")
    sweep(*overrides, "hydra.sweeper.n_trials=3")
    assert len(runs(sweep.folder)) == 3
    sweep(*overrides, "hydra.sweeper.n_trials=5")
    assert len(runs(sweep.folder)) == 5
    assert [t.number for t in trials(sweep.folder, "app")] == list(range(5))


def test_the_same_command_elsewhere_gives_the_same_table(sweep, run_python, tmp_path):
    tables = []
    for folder in ("a", "b"):
        sweep(
            "x=interval(0.0,4.0)",
            "hydra.sweeper.n_trials=8",
            f"hydra.sweep.dir={folder}",
            f"log={folder}.log",
        )
        tables.append((tmp_path / f"{folder}.log").read_text())
    assert tables[0] == tables[1]
    assert len(set(tables[0].splitlines())) == 8


@pytest.mark.parametrize("fails", ["raise", "exit", "nan", "unpicklable"])
def test_a_failed_trial_is_recorded_and_the_sweep_goes_on(sweep, fails):
    done = sweep("x=interval(0.0,4.0)", "seed=0,1,2", "hydra.sweeper.n_trials=6", f"fails={fails}", *TWO_PROCESSES)
    assert done.returncode == 0, done.stderr
    table = trials(sweep.folder, "app")
    assert [t.state for t in table] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE] * 2
    expected = {"raise": "unlucky", "exit": "leaves", "nan": "NaN", "unpicklable": "no pickle"}[fails]
    assert all(expected in t.user_attrs["error"] for t in table if t.state is TrialState.FAIL)


def test_a_killed_worker_costs_its_own_trial_and_no_other(sweep):
    done = sweep(
        "x=interval(0.0,4.0)", "seed=0,1,2", "hydra.sweeper.n_trials=6", "fails=kill", "sleep=0.2", *TWO_PROCESSES
    )
    assert done.returncode == 0, done.stderr
    table = trials(sweep.folder, "app")
    assert [t.state for t in table] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE] * 2
    assert all("died" in t.user_attrs["error"] for t in table if t.state is TrialState.FAIL)


def test_a_sweep_whose_trials_all_fail_stops_after_its_first_wave(sweep):
    options = ("x=interval(0.0,4.0)", "hydra.sweeper.n_trials=50", "fails=always")
    done = sweep(*options, allow_traceback="the app leaves its errors to Hydra")
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
    table = trials(tmp_path, "app")
    finished = [t for t in table if t.state is TrialState.COMPLETE]
    lost = [t for t in table if t.user_attrs.get("lost")]
    assert len(finished) == 8
    assert lost
    for trial in lost:
        (retry,) = [t for t in table if t.user_attrs.get("retry_of") == trial.number]
        assert retry.params == trial.params
        assert retry.user_attrs["replicate"] == trial.user_attrs["replicate"]
        assert retry.state is TrialState.COMPLETE


def test_a_second_driver_of_the_same_sweep_is_refused(sweep, tmp_path):
    overrides = ("x=interval(0.0,4.0)", "hydra.sweeper.n_trials=4", "tickets=tickets")
    with driver_of(tmp_path, *overrides) as first:
        wait_until(lambda: count_runs(tmp_path) == 1, "the first driver's first trial")
        second = sweep(*overrides, allow_traceback="the app leaves its errors to Hydra")
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
    done = sweep(*options, allow_traceback="the app leaves its errors to Hydra")
    assert done.returncode != 0
    assert message in done.stderr
    assert list(sweep.folder.iterdir()) == []


def test_a_torn_last_line_is_cut_off_and_kept_beside(tmp_path):
    journal = tmp_path / "optuna.journal"
    journal.write_bytes(b'{"op_code": 0}\n{"op_co')
    prepare_journal(str(journal))
    assert journal.read_bytes() == b'{"op_code": 0}\n'
    assert (tmp_path / "optuna.torn").read_bytes().endswith(b'{"op_co')


def test_a_lock_dies_with_the_process_that_held_it(tmp_path):
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
    """Make a SQLite file with some tables, and have a function called instead of waiting; returns its URL."""

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


def test_a_database_that_another_driver_is_making_is_waited_for(database):
    check_storage(database("studies", "version_info", while_waiting=BaseModel.metadata.create_all))


@pytest.mark.parametrize("tables", [("studies",), ("trials", "version_info", "mine"), ("mine",)])
def test_a_database_that_does_not_become_optunas_is_refused_and_at_once_where_it_can_not(database, tables):
    waits = []
    with pytest.raises(SweepRequestError, match="not Optuna's"):
        check_storage(database(*tables, while_waiting=waits.append))
    assert bool(waits) == ("mine" not in tables)


def test_discovery_imports_neither_optuna_nor_torch_nor_mlflow(run_python):
    program = (
        "import sys, json; from hydra.core.plugins import Plugins; Plugins.instance()\n"
        "print(json.dumps([m for m in ('optuna', 'torch', 'mlflow', 'pipeline') if m in sys.modules]))\n"
        "print('hydra_plugins.lr_study_sweeper.lr_study_sweeper' in sys.modules)"
    )
    done = run_python("-c", program, fresh=True)
    assert json.loads(done.stdout.splitlines()[0]) == []
    assert done.stdout.splitlines()[1] == "True"
