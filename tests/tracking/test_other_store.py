"""A sweep that is continued in a store that has not its runs, or not all of them."""

import logging
from types import SimpleNamespace

import pytest

from lr_study import Outcome, Progress, Sweep
from pipeline.errors import RequestError
from pipeline.sweep.hooks import SweepHooks
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.spool.background import BackgroundUploader
from pipeline.tracking.spool.spool import Spool
from pipeline.tracking.store import open_store
from pipeline.tracking.sweep import ParentRun
from tests.conftest import SWEEP, copy_results

TAGS = {"pipeline": "trial", "sweep": "mine", "cell": "batch=64"}


@pytest.fixture
def go_on(composed, tmp_path, monkeypatch):
    """Start the sweep `mine` again, of which three trials have finished; returns its hooks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(BackgroundUploader, "_failed_at", -float("inf"))
    started = []

    def start(uri, experiment):
        hooks = SweepHooks()
        config = composed(f"tracking.uri={uri}", f"tracking.experiment={experiment}")
        cell = SimpleNamespace(name="batch=64", config=config, choices={}, dimensions=[])
        options = SimpleNamespace(hydra=SimpleNamespace(sweeper=SimpleNamespace(direction="minimize")))
        hooks.started(Sweep("mine", options, [cell], total_trials=4, finished_trials=3))
        started.append(hooks)
        return hooks

    yield start
    for hooks in started:
        hooks._parent.end("complete")


def log_trials(target, count):
    """Log trials of the sweep `mine`."""
    ParentRun(target, "mine").end("interrupted")
    for number in range(count):
        with TrackedRun(target, "trial", TAGS | {"trial": str(number)}, sweep="mine") as run:
            told = {"batch": 64, "optimizer.lr": 0.1 * 2**number, "seed": 0, "objective": "val/loss"}
            more = {"budget.kind": "epochs", "budget.epochs": 5, "report.margin": "5%", "scaling.base_batch": 64}
            run.log_params(told | more | {"dataset.guess_loss": 2.3})
            run.log_metrics({"val/loss": 0.1}, 1)


def test_the_same_command_with_another_store_is_refused_and_writes_nothing_there(swept, run_python, tmp_path):
    folder = copy_results(swept.folder, tmp_path / "again")
    more = ("hydra.sweeper.n_trials=9", "hydra/launcher=basic", f"tracking.uri=sqlite:///{tmp_path}/other.db")
    done = run_python(*SWEEP, *more, folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    what, how = done.stderr.splitlines()
    assert "of its trials have finished, and the experiment lr-batch in MLflow at" in what
    assert "has no run of it" in what
    assert how.startswith("Use the tracking.uri and tracking.experiment that it began with, or another sweep.name")
    assert not (tmp_path / "other.db").exists()


def test_another_experiment_of_the_same_store_is_refused(own_target, go_on):
    log_trials(own_target, 1)
    open_store(own_target.uri, "other")
    with pytest.raises(RequestError, match="3 of its trials have finished, and the experiment other"):
        go_on(own_target.uri, "other")


def test_a_sweep_that_is_recorded_for_another_store_only_is_refused(own_target, go_on):
    header = {"store": "http://elsewhere", "experiment": "tests", "name": "t", "time": 1, "tags": TAGS}
    Spool.create(own_target.spool, header).release()
    with pytest.raises(RequestError, match="has no run of it"):
        go_on(own_target.uri, "tests")


def test_the_same_store_at_another_address_is_used(own_target, go_on, tmp_path):
    log_trials(own_target, 1)
    (tmp_path / "link").symlink_to(tmp_path / "mlruns")
    hooks = go_on(f"sqlite:///{tmp_path}/link/mlflow.db", "tests")
    assert hooks._parent.id


def test_a_sweep_whose_records_all_wait_to_be_sent_goes_on(own_target, go_on):
    header = {"store": own_target.label, "experiment": "tests", "name": "t", "time": 1, "tags": TAGS}
    Spool.create(own_target.spool, header).release()
    assert go_on(own_target.uri, "tests")._parent.id


def test_a_sweep_goes_on_while_its_server_is_away(go_on):
    assert go_on("http://127.0.0.1:1", "tests")._parent.id is None


def test_the_report_says_how_many_finished_trials_mlflow_lacks(own_target, go_on, caplog, capsys):
    caplog.set_level(logging.INFO)
    log_trials(own_target, 2)
    hooks = go_on(own_target.uri, "tests")
    hooks.ended(Outcome("complete", Progress(finished=4, failed=1, total=4)))
    said = "1 of 3 finished trials have no run in MLflow, so the report is made without them."
    assert said in caplog.text
    store = open_store(own_target.uri, "tests")
    assert said in store.client.get_run(hooks._parent.id).data.tags["mlflow.note.content"]


def test_a_report_on_all_finished_trials_says_nothing_of_it(own_target, go_on, caplog, capsys):
    log_trials(own_target, 2)
    go_on(own_target.uri, "tests").ended(Outcome("complete", Progress(finished=3, failed=1, total=4)))
    assert "no run in MLflow" not in caplog.text
