"""Sending a spool while MLflow refuses a part of it, loses answers, or loses the run."""

import contextlib
import json
import logging
import time

import pytest
import requests
from mlflow import MlflowClient
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from pipeline.tracking.run import TrackedRun
from pipeline.tracking.spool.background import BackgroundUploader
from pipeline.tracking.spool.recovery import upload_unsent
from pipeline.tracking.spool.spool import Spool, list_spools
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
    """Create a spool, and its uploader."""
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
    """Make a method of MLflow's client fail."""
    method = getattr(MlflowClient, name)

    def call(self, *args, **kwargs):
        if when(*args):
            raise error
        return method(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, name, call)


def once(monkeypatch, name, after):
    """Make a method fail once: before it sends its request, or `after`, so that only the answer is lost."""
    method, failed = getattr(MlflowClient, name), []

    def call(self, *args, **kwargs):
        answer = method(self, *args, **kwargs) if after or failed else None
        if not failed:
            failed.append(name)
            raise ConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(MlflowClient, name, call)


def die_at(monkeypatch, names, number, after):
    """Make the process "die" at a request to these methods, before it is sent or `after`; the list of requests."""
    calls = []

    def dying(name):
        method = getattr(MlflowClient, name)

        def call(self, *arguments, **options):
            calls.append(name)
            answer = method(self, *arguments, **options) if after or len(calls) <= number else None
            if len(calls) > number:
                raise KeyboardInterrupt
            return answer

        return call

    for name in names:
        monkeypatch.setattr(MlflowClient, name, dying(name))
    return calls


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def names(store, run_id, folder=None):
    return [file.path for file in store.client.list_artifacts(run_id, folder)]


def test_an_artifact_that_can_not_be_stored_is_deferred_and_all_else_is_sent(own_target, store, monkeypatch, caplog):
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
        # Another process doesn't try a deferred artifact before it is due.
        sent = upload_unsent(own_target.spool, own_target.uri)
        assert [reason for _, reason in sent.partial] == ["tried just now"]
        sent = upload_unsent(own_target.spool, own_target.uri, retry_now=True)
        assert "Permission denied" in sent.partial[0][1]
        assert names(store, run.id) == []
    sent = upload_unsent(own_target.spool, own_target.uri, retry_now=True)
    assert sent.runs == [run.id]
    assert names(store, run.id, "config") == ["config/config.yaml", "config/overrides.yaml"]
    assert list(own_target.spool.iterdir()) == []


def test_only_the_file_that_is_too_large_for_the_server_is_deferred(own_target, store, monkeypatch, tmp_path):
    for name in ("big.pt", "small.png"):
        (tmp_path / name).write_text(name)
    error = requests.HTTPError("413 Client Error: Request Entity Too Large")
    failing(monkeypatch, "log_artifact", error, lambda run_id, file, *more: file.endswith("big.pt"))
    with TrackedRun(own_target, "large", {}) as run:
        run.log_file(tmp_path / "big.pt", "")
        run.log_file(tmp_path / "small.png", "")
    assert names(store, run.id) == ["small.png"]
    assert (run.spool.files / "big.pt").exists()


def test_a_deferred_artifact_is_tried_again_during_the_run(own_target, store, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.spool.uploader.FIRST_PAUSE", 0.0)
    once(monkeypatch, "log_text", after=False)
    spool, uploader = begin(own_target)
    spool.append({"text": "a", "path": "a.txt"})
    assert not uploader.send()
    spool.append_end("complete", "FINISHED")
    assert uploader.send()
    assert names(store, uploader.run_id) == ["a.txt"]


def test_an_artifact_is_not_deferred_if_mlflow_itself_does_not_answer(own_target, monkeypatch):
    spool, uploader = begin(own_target)
    uploader.send()
    spool.append({"text": "a", "path": "a.txt"})
    for name in ("log_text", "get_run"):
        failing(monkeypatch, name, ConnectionError("Connection refused"))
    with pytest.raises(ConnectionError):
        uploader.send()
    assert not uploader.deferred


def test_a_run_that_is_gone_from_the_database_is_sent_again_from_its_start(own_target, store, caplog):
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


def test_a_trial_that_is_sent_again_finds_its_sweep_by_name(own_target, store):
    _, parent = begin(own_target, tags={"pipeline": "sweep", "sweep": "s"})
    parent.send()
    spool, uploader = begin(own_target, sweep="s", parent="0" * 32)
    uploader.send()
    store.client._tracking_client.store._hard_delete_run(uploader.run_id)
    spool.append({"params": {"p": "1"}})
    uploader.send()
    assert store.client.get_run(uploader.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def test_a_run_that_somebody_deleted_stays_deleted_with_one_warning(own_target, store, caplog):
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


def test_only_the_key_that_mlflow_refuses_is_left_out_of_a_request(own_target, store, caplog):
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


def test_an_error_page_from_a_proxy_is_no_refusal(own_target, store, monkeypatch):
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


def test_a_sweep_logs_its_params_even_if_the_answer_to_its_creation_was_lost(own_target, store, monkeypatch):
    once(monkeypatch, "create_run", after=True)
    parent = ParentRun(own_target, "lost answer")
    parent.describe({"a": 1}, ["batch=1"])
    parent.end("complete")
    found = store.client.get_run(parent.id)
    assert found.data.params == {"a": "1"}
    assert names(store, parent.id, "config") == ["config/cells.json"]


def test_records_for_a_new_sweep_are_not_sent_to_a_resumed_one(own_target, store, caplog):
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
def test_reopening_a_resumed_sweep_is_repeated_until_it_succeeds(own_target, store, monkeypatch, step):
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


def test_a_parameter_is_cut_only_if_it_is_longer_than_mlflows_limit(own_target, store):
    with TrackedRun(own_target, "long", {}) as run:
        run.log_params({"whole": "x" * MAX_PARAM_VAL_LENGTH, "cut": "x" * (MAX_PARAM_VAL_LENGTH + 1)})
    params = store.client.get_run(run.id).data.params
    assert params["whole"] == "x" * MAX_PARAM_VAL_LENGTH
    assert params["cut"] == "x" * (MAX_PARAM_VAL_LENGTH - 1) + "…"


def test_a_resumed_run_does_not_log_again_what_it_logged_before(own_target, store):
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


def test_a_spool_that_an_earlier_version_sent_in_part_is_sent_to_the_end(own_target, store):
    key = "7a4f316a3cb444e4aaaef0589f9107db"
    header = f'{{"key":"{key}","store":"sqlite:mlflow.db","experiment":"tests","name":"old","time":1000,"tags":{{}}}}\n'
    text = '{"text":"batch: 1","path":"config/config.yaml"}\n'
    end = '{"end":"complete","mlflow_status":"FINISHED","time":2000}\n'
    run_id = store.client.create_run(store.experiment_id, tags={"run_key": key}).info.run_id
    sent = {"run_id": run_id, "position": len(header + text), "aside": [len(header)], "was_there": False, "retry_at": 0}
    own_target.spool.mkdir()
    (own_target.spool / f"{key}.jsonl").write_text(header + text + end)
    (own_target.spool / f"{key}.sent").write_text(json.dumps(sent))
    assert upload_unsent(own_target.spool, own_target.uri).runs == [run_id]
    assert names(store, run_id, "config") == ["config/config.yaml"]
    assert store.client.get_run(run_id).info.status == "FINISHED"
    assert list(own_target.spool.iterdir()) == []


@pytest.mark.parametrize("after", [False, True], ids=["request lost", "answer lost"])
def test_a_process_that_dies_at_any_request_leaves_all_to_be_sent_once(own_target, store, monkeypatch, after):
    methods = ("create_run", "log_batch", "log_text", "log_inputs", "set_terminated")
    for number in range(20):
        spool, uploader = begin(own_target, tags={"number": str(number)})
        spool.append({"params": {f"p{i}": str(i) for i in range(90)}})
        spool.append({"params": {f"q{i}": str(i) for i in range(90)}})
        spool.append({"text": "batch: 1", "path": "config/config.yaml"})
        spool.append({"dataset": {"name": "digits", "digest": "0" * 32, "source": "sklearn", "examples": 10}})
        for step in range(3):
            spool.append({"metrics": {"m": float(step)}, "time": 1000 + step, "step": step})
        spool.append_end("complete", "FINISHED")
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            calls = die_at(patch, methods, number, after)
            uploader.send()
        spool.release()
        (run_id,) = upload_unsent(own_target.spool, own_target.uri).runs
        (run,) = store.client.search_runs([store.experiment_id], f"tags.number = '{number}'")
        assert (run.info.run_id, run.info.status, run.data.tags["status"]) == (run_id, "FINISHED", "complete")
        assert len(run.data.params) == 180
        assert len(run.inputs.dataset_inputs) == 1
        assert [m.step for m in store.client.get_metric_history(run_id, "m")] == [0, 1, 2]
        assert names(store, run_id, "config") == ["config/config.yaml"]
        if len(calls) <= number:
            break
    assert set(calls) == set(methods), "every request was interrupted once"
