"""What becomes of a record where MLflow takes only a part of it, loses answers, or forgets the run."""

import logging
import time

import pytest
import requests
from mlflow import MlflowClient
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from pipeline.tracking.run import TrackedRun
from pipeline.tracking.spool.background import BackgroundUploader
from pipeline.tracking.spool.folder import list_spools
from pipeline.tracking.spool.recovery import upload_unsent
from pipeline.tracking.spool.spool import Spool
from pipeline.tracking.spool.uploader import Uploader
from pipeline.tracking.store import open_store
from pipeline.tracking.sweep import ParentRun


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch):
    monkeypatch.setattr(BackgroundUploader, "_failed_at", -float("inf"))
    monkeypatch.setattr("pipeline.tracking.spool.background.SEND_SECONDS", 0.1)


@pytest.fixture
def store(own_target):
    return open_store(own_target.uri, own_target.experiment)


def begin(target, **more):
    """A record, and who sends it to that place."""
    header = {
        "store": target.label,
        "experiment": target.experiment,
        "name": "a",
        "time": 1000,
        "tags": {"pipeline": "run"},
    }
    spool = Spool.create(target.spool, header | more)
    return spool, Uploader(spool, target.uri, is_new=True)


def failing(monkeypatch, name, error, when=lambda *args: True):
    """Have a method of MLflow's client fail."""
    method = getattr(MlflowClient, name)

    def call(self, *args, **kwargs):
        if when(*args):
            raise error
        return method(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, name, call)


def once(monkeypatch, name, after):
    """Have it fail once; `after` whether it does what it was asked to, and only the answer is lost."""
    method, failed = getattr(MlflowClient, name), []

    def call(self, *args, **kwargs):
        answer = method(self, *args, **kwargs) if after or failed else None
        if not failed:
            failed.append(name)
            raise ConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(MlflowClient, name, call)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def names(store, run_id, folder=None):
    return [file.path for file in store.client.list_artifacts(run_id, folder)]


def test_an_artifact_that_cannot_be_stored_holds_up_nothing_and_is_stored_later(own_target, store, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        failing(patch, "log_text", PermissionError(13, "Permission denied"))
        with TrackedRun(own_target, "no artifacts", {}) as run:
            run.log_text("a: 1\n", "config/config.yaml")
            run.log_params({"p": 1})
            run.log_text("b: 1\n", "config/overrides.yaml")
            run.log_metrics({"m": 2.0}, 1)
        found = store.client.get_run(run.id)
        assert (found.info.status, found.data.params, found.data.metrics) == ("FINISHED", {"p": "1"}, {"m": 2.0})
        assert not run.is_sent
        assert len(list_spools(own_target.spool)) == 1
        (said,) = warnings(caplog)
        assert "Permission denied" in said
        # Another process knows what is missing, and doesn't try each time that it has something to send itself.
        sent = upload_unsent(own_target.spool, own_target.uri)
        assert [reason for _, reason in sent.partial] == ["tried just now"]
        sent = upload_unsent(own_target.spool, own_target.uri, retry_now=True)
        assert "Permission denied" in sent.partial[0][1]
        assert names(store, run.id) == []
    sent = upload_unsent(own_target.spool, own_target.uri, retry_now=True)
    assert sent.runs == [run.id]
    assert names(store, run.id, "config") == ["config/config.yaml", "config/overrides.yaml"]
    assert list(own_target.spool.iterdir()) == []


def test_a_file_that_is_too_large_for_the_server_is_the_only_one_that_waits(own_target, store, monkeypatch, tmp_path):
    for name in ("big.pt", "small.png"):
        (tmp_path / name).write_text(name)
    error = requests.HTTPError("413 Client Error: Request Entity Too Large")
    failing(monkeypatch, "log_artifact", error, lambda run_id, file, *more: file.endswith("big.pt"))
    with TrackedRun(own_target, "large", {}) as run:
        run.log_file(tmp_path / "big.pt", "")
        run.log_file(tmp_path / "small.png", "")
    assert names(store, run.id) == ["small.png"]
    assert (run.spool.files / "big.pt").exists()


def test_what_was_a_hiccup_is_mended_while_the_run_goes_on(own_target, store, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.spool.deferred.FIRST_PAUSE", 0.0)
    once(monkeypatch, "log_text", after=False)
    spool, uploader = begin(own_target)
    spool.append({"text": "a", "path": "a.txt"})
    assert not uploader.send()
    spool.append_end("complete", "FINISHED")
    assert uploader.send()
    assert names(store, uploader.run_id) == ["a.txt"]


def test_an_artifact_is_not_set_aside_while_mlflow_itself_is_away(own_target, monkeypatch):
    spool, uploader = begin(own_target)
    uploader.send()
    spool.append({"text": "a", "path": "a.txt"})
    for name in ("log_text", "get_run"):
        failing(monkeypatch, name, ConnectionError("Connection refused"))
    with pytest.raises(ConnectionError):
        uploader.send()
    assert not uploader.deferred


def test_a_run_that_is_gone_from_the_database_is_sent_anew_from_its_start(own_target, store, caplog):
    with TrackedRun(own_target, "gone", {"pipeline": "run"}) as run:
        run.log_params({"p": 1})
        run.log_text("a: 1\n", "config.yaml")
        run.log_metrics({"m": 1.0}, 1)
        old = run.id
        deadline = time.monotonic() + 30
        while not store.client.get_run(old).data.metrics and time.monotonic() < deadline:
            time.sleep(0.05)
        store.client._tracking_client.store._hard_delete_run(old)
        run.log_metrics({"m": 2.0}, 2)
    assert run.is_sent
    assert run.id != old
    found = store.client.get_run(run.id)
    assert (found.info.status, found.data.params) == ("FINISHED", {"p": "1"})
    assert sorted(m.step for m in store.client.get_metric_history(run.id, "m")) == [1, 2]
    assert names(store, run.id) == ["config.yaml"]
    (said,) = warnings(caplog)
    assert "sent anew" in said


def test_a_trial_that_is_sent_anew_finds_its_sweep_by_name(own_target, store):
    _, parent = begin(own_target, tags={"pipeline": "sweep", "sweep": "s"})
    parent.send()
    spool, uploader = begin(own_target, sweep="s", parent="0" * 32)
    uploader.send()
    store.client._tracking_client.store._hard_delete_run(uploader.run_id)
    spool.append({"params": {"p": "1"}})
    uploader.send()
    assert store.client.get_run(uploader.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def test_a_run_that_somebody_deleted_stays_deleted_and_says_so_once(own_target, store, caplog):
    spool, uploader = begin(own_target)
    uploader.send()
    store.client.delete_run(uploader.run_id)
    for step in range(3):
        spool.append({"metrics": {f"m{i}": 1.0 for i in range(50)}, "time": 1000, "step": step})
        assert not uploader.send()
    spool.append_end("complete", "FINISHED")
    assert uploader.send()
    assert store.client.get_run(uploader.run_id).data.metrics == {}
    (said,) = warnings(caplog)
    assert "was deleted" in said


def test_of_a_batch_with_one_key_that_mlflow_refuses_only_that_key_is_left_out(own_target, store, caplog):
    with TrackedRun(own_target, "bad key", {}) as run:
        run.log_params({f"p{i}": i for i in range(99)} | {"bad?param": 1})
        run.log_metrics({"m": 1.0, "bad?metric": 2.0}, 1)
        run.log_metrics({"m": 3.0}, 2)
    assert run.is_sent
    found = store.client.get_run(run.id).data
    assert len(found.params) == 99
    assert found.metrics == {"m": 3.0}
    assert len(store.client.get_metric_history(run.id, "m")) == 2
    said = warnings(caplog)
    assert len(said) == 2
    assert "the parameter bad?param" in said[0]
    assert "the metric bad?metric" in said[1]


def test_a_page_that_a_proxy_answers_with_is_no_refusal(own_target, store, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST

    spool, uploader = begin(own_target)
    spool.append({"params": {"p": "1"}})
    page = MlflowException("API request failed with error code 400 != 200. Response body: '<html>'", BAD_REQUEST)
    with monkeypatch.context() as patch:
        failing(patch, "log_batch", page)
        with pytest.raises(MlflowException):
            uploader.send()
    uploader.send()
    assert store.client.get_run(uploader.run_id).data.params == {"p": "1"}


def test_a_sweep_whose_first_answer_was_lost_still_says_what_is_said_once(own_target, store, monkeypatch):
    once(monkeypatch, "create_run", after=True)
    parent = ParentRun(own_target, "lost answer")
    parent.describe({"a": 1}, ["batch=1"])
    parent.end("complete")
    found = store.client.get_run(parent.id)
    assert found.data.params == {"a": "1"}
    assert names(store, parent.id, "config") == ["config/cells.json"]


def test_what_a_sweep_was_told_once_is_not_told_again_by_whoever_sends_the_rest(own_target, store, caplog):
    first = ParentRun(own_target, "told")
    first.describe({"a": 1}, ["batch=1"])
    first.end("complete")
    spool, uploader = begin(own_target, find="tags.pipeline = 'sweep' AND tags.sweep = 'told'")
    uploader.send()
    spool.append({"params": {"a": "2"}, "if_new": True})
    spool.append_end("complete", "FINISHED")
    spool.release()
    assert upload_unsent(own_target.spool, own_target.uri).runs == [first.id]
    assert store.client.get_run(first.id).data.params == {"a": "1"}
    assert warnings(caplog) == []


@pytest.mark.parametrize("step", ["update_run", "log_batch"])
def test_a_sweep_that_goes_on_is_opened_again_however_often_that_fails(own_target, store, monkeypatch, step):
    first = ParentRun(own_target, "again")
    first.end("interrupted")
    _, uploader = begin(
        own_target, find="tags.pipeline = 'sweep' AND tags.sweep = 'again'", tags={"status": "running", "new": "tag"}
    )
    once(monkeypatch, step, after=False)
    with pytest.raises(ConnectionError):
        uploader.send()
    uploader.send()
    found = store.client.get_run(first.id)
    assert (found.info.status, found.data.tags["status"], found.data.tags["new"]) == ("RUNNING", "running", "tag")


def test_a_parameter_is_cut_only_where_mlflow_would_not_take_it(own_target, store):
    with TrackedRun(own_target, "long", {}) as run:
        run.log_params({"whole": "x" * MAX_PARAM_VAL_LENGTH, "cut": "x" * (MAX_PARAM_VAL_LENGTH + 1)})
    params = store.client.get_run(run.id).data.params
    assert params["whole"] == "x" * MAX_PARAM_VAL_LENGTH
    assert params["cut"] == "x" * (MAX_PARAM_VAL_LENGTH - 1) + "…"


def test_what_a_run_logged_before_it_was_cut_off_is_not_logged_twice(own_target, store):
    spool, _ = begin(own_target)
    spool.append({"metrics": {"diverged": 0.0}, "time": 2000, "step": 5})
    spool.append({"metrics": {"test/loss": 1.0, "test/error": 0.5}, "time": 2000, "step": 5})
    spool.release()
    with TrackedRun.resumed(own_target, Spool.open(spool.path)) as run:
        run.log_metrics({"diverged": False}, 5)
        run.log_metrics({"test/loss": 1.0, "test/error": 0.5}, 5)
        run.log_metrics({"steps_to_target": 7}, 5)
    for key in ("diverged", "test/loss", "test/error", "steps_to_target"):
        assert len(store.client.get_metric_history(run.id, key)) == 1, key
    assert run.history["test/loss"] == {5: 1.0}
