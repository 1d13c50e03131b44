"""A run of several seeds in MLflow: means, each replicate's numbers, its repetition; and a sweep of such runs."""

import contextlib
import os
import signal
import sqlite3
import statistics

import pytest

from pipeline.analysis.replicate_table import read_replicates
from pipeline.recipe.statuses import CRASHED
from pipeline.sweep.answer import runs_by_workload
from pipeline.tracking.artifact import read_artifact
from pipeline.tracking.store import open_existing_store
from pipeline.tracking.table_row import as_runs
from tests.lr_study.app import wait_until

SMALL = ("batch=128", "budget.epochs=2", "model.hidden=[16]")


@pytest.fixture
def several(run_python, tmp_path):
    done = run_python("-m", "pipeline.train", *SMALL, "seed=2-6", "noise_scale.epochs=[1]", "noise_scale.examples=32")
    assert done.returncode == 0, done.stderr
    store = open_existing_store(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "lr-batch")
    (run,) = store.client.search_runs([store.experiment_id])
    return done, store, run


def test_a_run_of_five_seeds_logs_their_means_and_each_replicates_every_evaluation(several):
    done, store, run = several
    assert "mean of 5" in done.stdout
    assert "5 complete after 17 steps" in done.stdout
    rows = read_replicates(read_artifact(store.client, run.info.run_id, "replicates.csv"))
    assert [(row.seed, row.evaluation) for row in rows] == [(seed, epoch) for seed in range(2, 7) for epoch in (1, 2)]
    last = [row.metrics["val/loss"] for row in rows if row.evaluation == 2]
    metrics = run.data.metrics
    assert metrics["val/loss"] == pytest.approx(statistics.fmean(last))
    assert metrics["val/loss_sd"] == pytest.approx(statistics.stdev(last))
    assert (metrics["replicates"], metrics["diverged"], run.data.params["seed"]) == (5, 0, "2-6")
    assert metrics["test/loss"] == pytest.approx(statistics.fmean(r.metrics["test/loss"] for r in rows[1::2]))
    assert run.data.params["runtime.stack"] in {"1", "5"}
    assert "noise_scale/trace" in metrics
    table = as_runs(run, rows)
    assert [row.seed for row in table] == [2, 3, 4, 5, 6]
    assert [row.value for row in table] == last
    assert [row.noise_trace is None for row in table] == [False, True, True, True, True]
    assert "noise_scale/trace_sd" not in metrics
    assert run.info.run_name.endswith("-s2-6")


def test_the_run_is_repeated_with_every_replicate_and_one_replicate_alone(several, run_python):
    _, _, run = several
    again = run_python("-m", "pipeline.reproduce", run.info.run_id)
    assert again.returncode == 0, again.stdout
    assert "are equal bit for bit" in again.stdout
    alone = run_python("-m", "pipeline.reproduce", run.info.run_id, "--replicate", "4")
    assert alone.returncode == 0, alone.stdout
    assert "are equal within 1.00%" in alone.stdout
    wrong = run_python("-m", "pipeline.reproduce", run.info.run_id, "--replicate", "7")
    assert (wrong.returncode, wrong.stderr) == (2, "--replicate 7: the run trained seed=2-6.\nName one of these.\n")


@pytest.mark.long
def test_a_sweep_searches_with_all_replicates_and_confirms_with_fresh_ones_look_by_look(run_python, tmp_path):
    request = ("batch=32,128", "seed=0-5", "hydra.sweeper.n_trials=6", "sweep.name=s", "report.confirm.looks=[4,8]")
    command = ("-m", "pipeline.train", "-m", *SMALL[1:], *request, "scaling.base_batch=32")
    done = run_python(*command)
    assert done.returncode == 0, done.stderr
    store = open_existing_store(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "lr-batch")
    ((runs, _),) = runs_by_workload(store, "s").values()
    searched = [run for run in runs if run.phase == "search"]
    assert len(searched) == 2 * 6 * 6
    assert {run.seed for run in searched} == set(range(6))
    fresh = {run.seed for run in runs if run.phase == "confirm"}
    assert fresh in ({*range(1000, 1004)}, {*range(1000, 1008)})
    children = store.client.search_runs([store.experiment_id], "tags.pipeline = 'trial'")
    assert {child.data.params["seed"] for child in children} <= {"0-5", "1000-1003", "1004-1007"}
    again = run_python(*command)
    assert again.returncode == 0
    assert len(store.client.search_runs([store.experiment_id], "tags.pipeline = 'trial'")) == len(children)


@pytest.mark.long
def test_a_sweep_of_replicates_that_is_killed_goes_on_and_has_each_replicate_once(tmp_path, start_python, run_python):
    request = ("batch=32,128", "seed=0-5", "hydra.sweeper.n_trials=6", "sweep.name=s", "report.confirm.looks=[4,8]")
    command = ("-m", "pipeline.train", "-m", "budget.epochs=20", "model.hidden=[16]", *request, "scaling.base_batch=32")
    database = tmp_path / "mlruns" / "mlflow.db"
    for finished in (3, 9):
        driver = start_python(*command, fresh=True, new_session=True)
        wait_until(lambda count=finished: count_finished(database) >= count, f"{finished} finished trials")
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    done = run_python(*command, timeout=600)
    assert done.returncode == 0, done.stderr
    ((runs, _),) = runs_by_workload(open_existing_store(f"sqlite:///{database}", "lr-batch"), "s").values()
    ended = [(run.batch, run.lr, run.seed, run.phase) for run in runs if run.status not in CRASHED]
    assert len(set(ended)) == len(ended)
    for batch in (32, 128):
        searched = [key for key in ended if key[0] == batch and key[3] == "search"]
        assert len(searched) == 6 * 6


def count_finished(database):
    if not database.exists():
        return 0
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            query = "SELECT count(*) FROM runs WHERE status = 'FINISHED'"
            return connection.execute(query).fetchone()[0]
        except sqlite3.OperationalError:  # no tables yet, or locked
            return 0
