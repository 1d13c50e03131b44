"""A sweep's parent run at the end of the sweep: report, best model, and a server that goes away just then."""

import contextlib
import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from lr_study import Abandoned, Outcome, Progress
from pipeline.analysis.runs import Run
from pipeline.errors import RunError
from pipeline.sweep.hooks import SweepHooks
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.store import open_store
from pipeline.tracking.sweep import ParentRun, copy_best_model, log_report, read_runs


@pytest.fixture
def store(own_target):
    return open_store(own_target.uri, own_target.experiment)


@pytest.fixture
def parent(own_target):
    parent = ParentRun(own_target, "s")
    yield parent
    with contextlib.suppress(RunError):  # if the hooks have closed it already
        parent.end("complete")


def trial(target, value, model=None, status="complete", number=0):
    """Log a trial of the sweep with this `value` and `model`."""
    tags = {"pipeline": "trial", "sweep": "s", "cell": "batch=64", "study": "s/64", "trial": str(number)}
    with TrackedRun(target, "trial", tags) as run:
        told = {"batch": 64, "optimizer.lr": 0.1, "seed": 0, "objective": "val/loss", "dataset.guess_loss": 2.3}
        run.log_params(told)
        run.log_metrics({"val/loss": value}, 1)
        if model is not None:
            run.log_text(model, "model/MLmodel")
        run.status = status
    return Run(batch=64, lr=0.1, value=value, status=status, run_id=run.id)


def model_of(store, run_id, folder):
    folder.mkdir()
    return Path(store.client.download_artifacts(run_id, "model/MLmodel", str(folder))).read_text(encoding="utf-8")


def test_the_model_of_the_best_trial_that_has_one_is_copied_to_the_sweep(own_target, store, parent, tmp_path):
    runs = [trial(own_target, 0.1), trial(own_target, 0.3, "third"), trial(own_target, 0.2, "second")]
    runs += [trial(own_target, 0.0, "diverged", "diverged"), trial(own_target, float("nan"), "no number")]
    assert copy_best_model(store, parent.id, runs) == (runs[2].run_id, 1)
    assert model_of(store, parent.id, tmp_path / "best") == "second"
    assert store.client.get_run(parent.id).data.tags["model_of"] == runs[2].run_id


def test_a_sweep_whose_trials_have_no_model_gets_none(own_target, store, parent):
    assert copy_best_model(store, parent.id, [trial(own_target, 0.1)]) is None
    assert copy_best_model(store, parent.id, []) is None
    assert "model_of" not in store.client.get_run(parent.id).data.tags


def test_best_lrs_are_logged_again_only_if_they_changed(store, parent, tmp_path):
    (tmp_path / "report").mkdir()
    before = time.time() - 1
    for best in ({64: 0.4, 128: 0.2}, {64: 0.1, 128: 0.2}, {64: 0.1, 128: 0.2, 256: 0.5}):
        log_report(store, parent.id, str(tmp_path / "report"), "answer", {"best_lr": best})
        time.sleep(0.002)
    history = store.client.get_metric_history(parent.id, "best_lr")
    logged = sorted((metric.timestamp, metric.step, metric.value) for metric in history)
    assert [(step, value) for _, step, value in logged] == [(64, 0.4), (128, 0.2), (64, 0.1), (256, 0.5)]
    assert before < logged[0][0] / 1000 <= time.time()


@pytest.fixture
def hooks(own_target, parent):
    hooks = SweepHooks()
    hooks._target, hooks._name, hooks._parent = own_target, "s", parent
    hooks._keeps_model = False
    return hooks


COMPLETE = Outcome("complete", Progress(1, 0, 1))


@pytest.fixture
def away(monkeypatch, own_target, parent):
    """A function that makes MLflow's client fail from then on."""
    assert parent.id

    def call(self, *args, **kwargs):
        raise ConnectionError("Connection refused")

    def go():
        for name in ("search_runs", "log_batch", "set_terminated", "get_run", "log_artifacts"):
            monkeypatch.setattr(MlflowClient, name, call)

    yield go
    monkeypatch.undo()


def test_only_the_report_waits_if_the_server_goes_away_after_the_trials(own_target, hooks, away, caplog):
    caplog.set_level(logging.INFO)
    trial(own_target, 0.1)
    away()
    hooks.ended(COMPLETE)
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name.startswith("pipeline")]
    assert [level for level, _ in said] == ["INFO", "WARNING"]
    assert "Connection refused" in said[0][1]
    assert "The report has to wait: run the same command again" in said[0][1]
    assert "can't be written" in said[1][1]


def test_only_the_confirmation_waits_if_the_server_goes_away_before_it(own_target, hooks, away, composed, caplog):
    caplog.set_level(logging.INFO)
    trial(own_target, 0.1)
    cell = SimpleNamespace(name="batch=64", config=composed(), dimensions=[SimpleNamespace(key="optimizer.lr")])
    away()
    sweep = SimpleNamespace(cells=[cell], config=OmegaConf.create({"hydra": {"sweeper": {"seed": 0}}}))
    assert hooks.further_trials(sweep) == []
    assert "The confirmation has to wait" in caplog.text


def test_a_trial_whose_process_died_says_so_in_the_table(own_target, store, hooks):
    run = trial(own_target, 0.1)
    hooks.abandoned([Abandoned("s/64", 0, "failed")])
    ((row,), _) = read_runs(store, "s")
    assert (row.run_id, row.status, row.reason) == (run.run_id, "failed", "its process died")


def test_dead_trials_are_closed_later_if_the_server_is_away(hooks, away, caplog):
    caplog.set_level(logging.INFO)
    away()
    hooks.abandoned([Abandoned("s/64", 0, "lost")])
    assert "closed later" in caplog.text


def test_a_server_that_goes_away_during_a_report_gives_a_message_of_one_line(own_target, store, away):
    trial(own_target, 0.1)
    away()
    with pytest.raises(RunError, match=r"can't be used now \(Connection refused\)\.$"):
        read_runs(store, "s")


def test_a_trial_that_was_run_again_counts_once_with_its_latest_run(own_target, store):
    for number, value in ((0, 0.1), (1, 0.2), (1, 0.3)):
        trial(own_target, value, number=number)
    assert [run.value for run in read_runs(store, "s")[0]] == [0.1, 0.3]


@pytest.fixture
def written(monkeypatch):
    """Replace the report; the arguments of each call."""
    done = []
    monkeypatch.setattr("pipeline.sweep.reporting.write_report", lambda *arguments: done.append(arguments) or {})
    return done


@pytest.mark.parametrize(("models", "said"), [([None, "m"], "the best trial but 1"), ([None, None], "No trial stored")])
def test_the_report_is_written_even_if_models_are_missing(own_target, hooks, written, caplog, models, said):
    caplog.set_level(logging.INFO)
    for value, model in enumerate(models):
        trial(own_target, value, model, number=value)
    hooks._keeps_model = True
    hooks.ended(COMPLETE)
    assert len(written) == 1
    assert said in caplog.text


@pytest.mark.parametrize(("key", "value"), [("batch", "sixtyfour"), ("optimizer.lr", "-1"), ("batch", "0")])
def test_a_trial_whose_params_were_edited_is_left_out_with_a_line(own_target, store, parent, caplog, key, value):
    kept, edited = trial(own_target, 0.1), trial(own_target, 0.2, number=1)
    told = {"optimizer.lr": 0.1, "batch": 64, "seed": 0, "objective": "val/loss", "dataset.guess_loss": 2.3}
    tags = {"pipeline": "trial", "sweep": "s", "cell": "batch=64", "study": "s/64", "trial": "2"}
    with TrackedRun(own_target, "trial", tags) as run:
        run.log_params(told | {key: value})
    runs, params = read_runs(store, "s")
    assert [run.run_id for run in runs] == list(params) == [kept.run_id, edited.run_id]
    assert f"Run {run.id} is left out, for it was edited in MLflow" in caplog.text


def test_a_status_that_no_run_has_is_left_out_with_a_line(own_target, store, parent, caplog):
    kept, edited = trial(own_target, 0.1), trial(own_target, 0.2, number=1)
    store.client.set_tag(edited.run_id, "status", "foo")
    assert [run.run_id for run in read_runs(store, "s")[0]] == [kept.run_id]
    assert "status foo" in caplog.text
