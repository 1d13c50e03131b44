"""The spool that a run writes before anything is sent."""

import os
import subprocess
import sys

import pytest

from pipeline.errors import RunError
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.spool.recovery import upload_unsent
from pipeline.tracking.spool.spool import Spool, list_spools
from pipeline.tracking.store import open_store
from pipeline.tracking.target import TrackingTarget


def record(folder, *more):
    spool = Spool.create(folder, {"name": "a"})
    for one in more:
        spool.append(one)
    return spool


def test_records_are_read_back_from_any_position(tmp_path):
    spool = record(tmp_path, {"n": 1}, {"n": float("nan")}, {"text": "ü\n"})
    whole = list(spool.read())
    assert [list(r) for r, _ in whole] == [["key", "name"], ["n"], ["n"], ["text"]]
    for index, (_, position) in enumerate(whole):
        assert [p for _, p in spool.read(position)] == [p for _, p in whole[index + 1 :]]


def test_another_process_can_open_a_spool_only_after_it_is_released(tmp_path):
    spool = record(tmp_path)
    program = (
        "import sys, pathlib; from pipeline.tracking.spool.spool import Spool\n"
        "print(Spool.open(pathlib.Path(sys.argv[1])) is not None)"
    )
    for expected in ("False", "True"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(spool.path)], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected
        spool.release()


def test_a_spool_cut_at_any_byte_loses_at_most_its_last_record(tmp_path):
    spool = record(tmp_path, {"n": 1}, {"n": 22})
    data = spool.path.read_bytes()
    spool.release()
    ends = [position for _, position in spool.read()]
    for length in range(len(data) + 1):
        spool.path.write_bytes(data[:length])
        found = Spool.open(spool.path)
        if found is None:
            assert length < ends[0], "a spool without a whole first line is removed"
            continue
        assert len(list(found.read())) == sum(end <= length for end in ends)
        found.append({"n": 333})
        assert next(reversed([r for r, _ in found.read()])) == {"n": 333}
        found.release()


def test_an_interruption_right_after_a_write_loses_no_record(tmp_path, monkeypatch):
    spool, write = record(tmp_path, {"n": 1}), os.write

    def interrupted(descriptor, data):
        write(descriptor, data)
        raise KeyboardInterrupt  # as a signal handler does

    monkeypatch.setattr("pipeline.tracking.spool.spool.os.write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spool.append({"n": 2})
    monkeypatch.undo()
    spool.append_end("interrupted", "KILLED")
    assert [r.get("n", r.get("end")) for r, _ in spool.read()][1:] == [1, 2, "interrupted"]


def test_records_are_read_in_order_while_the_file_grows_and_then_the_disk_fills(tmp_path, monkeypatch):
    spool = record(tmp_path, {"n": 1})
    reading = spool.read()
    next(reading)
    spool.append({"n": 2})
    monkeypatch.setattr("pipeline.tracking.spool.spool.os.write", lambda descriptor, data: 0)
    spool.append({"n": 3})
    first = list(reading)
    rest = list(spool.read(first[-1][1]))
    assert [one["n"] for one, _ in first + rest] == [1, 2, 3]


def test_records_are_sent_from_memory_once_the_disk_is_full(tmp_path, monkeypatch):
    target = TrackingTarget(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "full")
    write = os.write

    def failing(descriptor, data):
        if b'"step":3' in data:
            write(descriptor, data[:10])
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    run = TrackedRun(target, "full", {})
    monkeypatch.setattr("pipeline.tracking.spool.spool.os.write", failing)
    with run:
        for step in range(1, 6):
            run.log_metrics({"a": step}, step)
    monkeypatch.undo()
    assert run.is_sent
    store = open_store(target.uri, target.experiment)
    history = store.client.get_metric_history(run.id, "a")
    assert [(m.step, m.value) for m in history] == [(step, step) for step in range(1, 6)]
    assert list_spools(target.spool) == []


def test_a_run_that_neither_disk_nor_mlflow_takes_raises_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").write_text("in the way")
    with (
        pytest.raises(RunError, match="Tracking was lost"),
        TrackedRun(TrackingTarget("http://127.0.0.1:1", "lost"), "lost", {}) as run,
    ):
        run.log_metrics({"a": 1}, 1)


def test_a_spool_for_another_store_is_kept_unless_told_otherwise(tmp_path):
    spool = Spool.create(tmp_path, {"store": "http://elsewhere", "experiment": "x", "name": "a", "tags": {}, "time": 0})
    spool.append_end("complete", "FINISHED")
    spool.release()
    sent = upload_unsent(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    assert (sent.other_store, sent.runs) == (1, [])
    assert spool.path.exists()
    sent = upload_unsent(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", override=True)
    assert len(sent.runs) == 1
    assert not spool.path.exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a/../../secret"])
def test_a_forged_record_can_not_send_a_file_from_outside_the_spool(tmp_path, name):
    (tmp_path / "secret").write_text("hunter2")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    header = {"store": TrackingTarget(uri, "").label, "experiment": "x", "name": "a", "tags": {}, "time": 0}
    spool = Spool.create(tmp_path / "spool", header)
    spool.append({"file": name, "folder": ""})
    spool.append({"text": "t", "path": "../../out.txt"})
    spool.append_end("complete", "FINISHED")
    spool.release()
    (run_id,) = upload_unsent(tmp_path / "spool", uri).runs
    store = open_store(uri, "x")
    assert store.client.list_artifacts(run_id) == []
    assert store.client.get_run(run_id).info.status == "FINISHED"
    assert not list(tmp_path.rglob("out.txt"))


@pytest.fixture
def synced(monkeypatch):
    """(path, size) of each file that was synced to the disk, in order."""
    done = []
    fsync = os.fsync

    def note(descriptor):
        fsync(descriptor)
        done.append((os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", note)
    return done


def test_sync_writes_files_to_the_disk_before_the_records_that_name_them(tmp_path, synced):
    (tmp_path / "curves.png").write_text("picture")
    spool = record(tmp_path / "spool")
    spool.keep_file(tmp_path / "curves.png")
    (spool.files / "model").mkdir()
    (spool.files / "model" / "graph").write_text("graph")
    spool.keep_file(spool.files / "model")
    spool.append({"file": "curves.png", "folder": ""})
    spool.sync()
    paths = [path for path, _ in synced]
    files = [spool.files / name for name in ("curves.png", "model/graph", "model", "")]
    assert set(paths) == {str(path) for path in (*files, spool.path.parent, spool.path)}
    assert paths[-1] == str(spool.path), "the records that name the files come last"
    del synced[:]
    spool.sync()
    assert synced == [], "nothing is synced twice"
    spool.release()


def test_the_end_of_a_run_is_on_the_disk_when_the_run_is_closed(tmp_path, synced, monkeypatch):
    class Away:
        def __init__(self, *arguments):
            self.finish = lambda: False

    monkeypatch.setattr("pipeline.tracking.run.BackgroundUploader", Away)
    run = TrackedRun(TrackingTarget(f"sqlite:///{tmp_path}/mlflow.db", "away"), "away", {})
    run.close("complete", "FINISHED")
    assert (str(run.spool.path), run.spool.path.stat().st_size) in synced
    assert str(tmp_path / "spool") in [path for path, _ in synced]
    run.spool.release()
