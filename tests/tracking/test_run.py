"""One run, in a real SQLite store."""

import contextlib
import shutil
import subprocess
import sys

import pytest

from pipeline.errors import RequestError, RunError
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.spool.spool import RESUMED_FROM, Spool
from pipeline.tracking.store import folder_name, open_existing_store, open_store
from pipeline.tracking.sweep import ParentRun, find_parent, log_report, read_runs
from pipeline.tracking.target import TrackingTarget


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return TrackingTarget(f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlruns/mlflow.db", "tests")


@pytest.fixture(scope="module")
def store(target):
    return open_store(target.uri, target.experiment)


def stored(store, run_id):
    return store.client.get_run(run_id)


@pytest.mark.parametrize(
    "name", ["../../evil", "/evil", "..", ".", "a/../../evil", "%2e%2e%2fevil", "a\\..\\evil", "x" * 400, "ä/#?&"]
)
def test_an_experiments_name_never_leads_out_of_the_folder_of_artifacts(tmp_path, name):
    with TrackedRun(TrackingTarget(f"sqlite:///{tmp_path}/a/b/mlruns/mlflow.db", name), "run", {}) as run:
        run.log_text("text", "config/config.yaml")
    assert run.is_sent
    (written,) = tmp_path.rglob("config.yaml")
    assert written.parents[4] == tmp_path / "a" / "b" / "mlruns" / "artifacts"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_plain_name_names_the_folder_and_two_experiments_never_share_one():
    assert [folder_name(name) for name in ("lr-batch", "My runs (2)", "übung")] == ["lr-batch", "My runs (2)", "übung"]
    assert len({folder_name(name) for name in ("a/b", "a_b", "a\\b", "..", ".", "x" * 60, "x" * 61)}) == 7


def test_metrics_keep_their_steps_and_values_through_batches(target, store):
    with TrackedRun(target, "metrics", {}) as run:
        for step in range(1, 301):
            run.log_metrics({f"m{i}": step * 10 + i for i in range(9)}, step)
    for i in range(9):
        history = store.client.get_metric_history(run.id, f"m{i}")
        assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [
            (step, step * 10 + i) for step in range(1, 301)
        ]


def test_metrics_are_sent_in_one_request(target, store, monkeypatch):
    calls = []
    run = TrackedRun(target, "batches", {})
    assert run.id
    send = store.client.log_batch
    monkeypatch.setattr(type(store.client), "log_batch", lambda self, *a, **k: calls.append(1) or send(*a, **k))
    with run:
        for step in range(20):
            run.log_metrics(dict.fromkeys("abcdefghi", 1.0), step)
    assert len(calls) == 1, "the metrics, with how it ended"


def test_all_params_arrive_though_one_request_can_not_take_them_and_long_ones_are_cut(target, store):
    with TrackedRun(target, "params", {}) as run:
        run.log_params({f"p{i}": i for i in range(250)} | {"long": "x" * 10_000, "none": None})
    params = stored(store, run.id).data.params
    assert len(params) == 252
    assert params["long"].endswith("x…")
    assert params["none"] == "null"


@pytest.mark.parametrize(
    ("raised", "status", "tag", "reason"),
    [
        (None, "FINISHED", "stalled", None),
        (RuntimeError, "FAILED", "failed", "RuntimeError"),
        (
            RuntimeError("no room at db://me:hunter2@h\nmore"),
            "FAILED",
            "failed",
            "RuntimeError: no room at db://me:***@h",
        ),
        (KeyboardInterrupt, "KILLED", "interrupted", None),
        (SystemExit, "KILLED", "interrupted", None),
    ],
)
def test_a_run_is_closed_with_its_status_and_the_reason_however_the_block_ends(
    target, store, raised, status, tag, reason
):
    run = TrackedRun(target, "ends", {})
    # The run lets every exception through.
    with contextlib.suppress(RuntimeError, KeyboardInterrupt, SystemExit), run:
        run.log_metrics({"a": 1.0}, 1)
        run.status = "stalled"
        if raised:
            raise raised
    found = stored(store, run.id)
    assert (found.info.status, found.data.tags["status"]) == (status, tag)
    assert found.data.tags.get("error") == reason
    assert found.data.metrics["a"] == 1.0


def test_a_run_that_is_resumed_no_longer_has_the_error_that_ended_it(target, store):
    run = TrackedRun(target, "again", {}, resumable=True)
    run.spool.files.mkdir()
    (run.spool.files / RESUMED_FROM).touch()
    with contextlib.suppress(RuntimeError), run:
        raise RuntimeError("out of memory")
    assert stored(store, run.id).data.tags["error"] == "RuntimeError: out of memory"
    spool = Spool.open(run.spool.path)
    spool.append({"reopened": True})
    with TrackedRun.resumed(target, spool):
        pass
    assert stored(store, run.id).data.tags["status"] == "complete"
    assert "error" not in stored(store, run.id).data.tags


def test_nan_and_infinity_are_stored_as_they_are(target, store):
    with TrackedRun(target, "nan", {}) as run:
        run.log_metrics({"a": float("nan"), "b": float("inf")}, 1)
    metrics = stored(store, run.id).data.metrics
    assert metrics["a"] != metrics["a"]
    assert metrics["b"] > 1e300  # SQL has no infinity: MLflow stores the largest number


def test_the_data_set_is_recorded_as_mlflows_own_input(target, store):
    with TrackedRun(target, "data", {}) as run:
        run.log_dataset("digits", "0" * 32, "sklearn", 1077)
    (given,) = stored(store, run.id).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", "0" * 32)


def test_the_environment_is_recorded(target, store):
    with TrackedRun(target, "environment", {}) as run:
        run.log_environment()
    files = [file.path for file in store.client.list_artifacts(run.id, "environment")]
    assert files == ["environment/machine.json", "environment/requirements.txt"]


def child(target, parent, sweep, batch, lr, status="complete"):
    cell = f"batch={batch},model=mlp"
    tags = {"pipeline": "trial", "sweep": sweep, "cell": cell, "study": f"{sweep}/{cell}", "trial": "0"}
    with TrackedRun(target, "child", tags, parent=parent) as run:
        params = {"batch": batch, "optimizer.lr": lr, "seed": 3, "objective": "val/loss", "budget.kind": "epochs"}
        run.log_params(params | {"dataset.guess_loss": 2.3})
        run.log_metrics({"noise_scale/trace": 9.0, "noise_scale/squared_norm": 2.0}, 1)
        run.log_metrics({"val/loss": 0.5, "train/loss": 0.4, "optimizer_steps": 100}, 5)
        run.log_metrics({"noise_scale/trace": 4.0, "noise_scale/squared_norm": -0.5}, 5)
        run.status = status
    return run.id


def test_a_sweeps_table_is_read_back_from_its_children(target, store):
    parent = ParentRun(target, "table")
    run_id = child(target, parent.id, "table", 64, 0.1)
    child(target, parent.id, "table", 128, 0.2, "diverged")
    child(target, parent.id, "another", 64, 0.1)
    parent.end("complete")
    with TrackedRun(target, "child", {"pipeline": "trial", "sweep": "table", "status": "lost"}, parent=parent.id):
        pass  # killed before it logged its params
    runs, params = read_runs(store, "table")
    first, second = runs
    assert params[run_id]["optimizer.lr"] == "0.1"
    assert (first.batch, first.lr, first.value, first.seed, first.steps) == (64, 0.1, 0.5, 3, 100)
    assert (first.noise_trace, first.noise_squared_norm) == (4.0, -0.5)
    assert dict(first.other) == {"model": "mlp"}
    assert second.failed
    assert stored(store, run_id).data.tags["mlflow.parentRunId"] == parent.id


def test_a_resumed_sweep_keeps_its_parent_run(target, store):
    first = ParentRun(target, "resumed")
    first.describe({"a": 1}, ["batch=1"])
    first.end("interrupted")
    second = ParentRun(target, "resumed")
    second.describe({"a": 2}, ["batch=1", "batch=2"])
    assert first.id == second.id
    assert stored(store, first.id).info.status == "RUNNING"
    second.end("complete")
    assert stored(store, first.id).info.status == "FINISHED"
    assert stored(store, first.id).data.params == {"a": "1"}


def test_a_report_is_logged_on_the_parent_run_with_best_lr_at_the_batch_size(target, store, tmp_path):
    parent = ParentRun(target, "reported")
    (tmp_path / "report.html").write_text("<p>")
    log_report(store, parent.id, str(tmp_path), "**answer**", {"best_lr": {64: 0.1, 128: 0.2}})
    found = find_parent(store, "reported")
    assert found.data.tags["mlflow.note.content"] == "**answer**"
    assert [(m.step, m.value) for m in store.client.get_metric_history(parent.id, "best_lr")] == [
        (64, 0.1),
        (128, 0.2),
    ]
    assert [file.path for file in store.client.list_artifacts(parent.id, "report")] == ["report/report.html"]


def test_an_unknown_sweep_database_or_experiment_is_refused(store, tmp_path):
    with pytest.raises(RequestError, match=r"(?s)no sweep of that name.*Sweeps here: "):
        read_runs(store, "nope")
    with pytest.raises(RequestError, match="make study"):
        open_existing_store(f"sqlite:///{tmp_path}/mlflow.db", "tests")
    with pytest.raises(RequestError, match="no experiment nope"):
        open_existing_store(store.uri, "nope")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_no_reader_ever_sees_an_incomplete_database(tmp_path):
    """Several processes create the database while others try to read it."""
    program = (
        "import sys, pathlib\n"
        "from pipeline.errors import RequestError\n"
        "from pipeline.tracking.store import folder_name, open_existing_store, open_store\n"
        "uri = f'sqlite:///{sys.argv[1]}/mlruns/mlflow.db'\n"
        "if sys.argv[2] == 'make':\n"
        "    open_store(uri, 'tests')\n"
        "while True:\n"
        "    try:\n"
        "        print(open_existing_store(uri, 'tests').experiment_id); break\n"
        "    except RequestError as error:\n"
        "        assert 'no tracking database' in str(error), error\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), what],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for what in ("read", "make", "make", "read")
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 4, said
    assert len({out for out, _ in said}) == 1


def test_a_record_that_was_deleted_while_mlflow_is_away_is_not_promised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = TrackingTarget("http://127.0.0.1:1", "tests")
    with (
        pytest.raises(RunError, match=r"Tracking was lost.*its files were deleted"),
        TrackedRun(target, "run", {}) as run,
    ):
        shutil.rmtree(run.spool.path.parent)
