"""Folders with unusual names: commands work in them, or refuse them at once."""

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from pipeline import sync, train
from pipeline.tracking.check import check_location
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.spool.spool import Spool, list_spools
from pipeline.tracking.store import open_existing_store, open_store
from pipeline.tracking.target import TrackingTarget, sqlite_path, sqlite_uri

DEFAULT = "sqlite:///mlruns/mlflow.db"
UNUSUAL = ["a%20b?c=d", "'one' \"two\" :word #;", "me:pw@new\nline", "x" * 255]


def track_one(uri: str) -> TrackedRun:
    with TrackedRun(TrackingTarget(uri, "tests"), "run", {}) as run:
        run.log_text("said", "config/config.yaml")
    return run


@pytest.mark.parametrize("name", UNUSUAL, ids=range(len(UNUSUAL)))
def test_a_run_is_tracked_in_a_folder_of_any_name_and_nothing_lies_outside(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    open_store.cache_clear()  # by the address, which is relative
    check_location(DEFAULT)
    run = track_one(DEFAULT)
    assert run.is_sent
    (written,) = folder.rglob("config.yaml")
    assert written.is_relative_to(folder / "mlruns" / "artifacts")
    assert [path.name for path in folder.iterdir()] == ["mlruns"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    store = open_existing_store(sqlite_uri(folder / "mlruns" / "mlflow.db"), "tests")
    assert Path(store.client.download_artifacts(run.id, "config/config.yaml")).read_text(encoding="utf-8") == "said"
    places = [experiment.artifact_location for experiment in store.client.search_experiments()]
    assert all(place.startswith((folder / "mlruns" / "artifacts").as_uri()) for place in places), places


def test_what_a_run_left_in_such_a_folder_is_sent_by_the_command_that_names_its_spool(tmp_path, monkeypatch, capsys):
    spool = tmp_path / "a%20b?c@d" / "mlruns" / "spool"
    target = TrackingTarget(sqlite_uri(spool.parent / "mlflow.db"), "tests")
    assert target.spool == spool
    assert target.sync_command.endswith(f"--tracking-uri {target.uri}")
    left = Spool.create(spool, {"store": target.label, "experiment": "tests", "name": "a", "time": 1, "tags": {}})
    left.append_end("complete", "FINISHED")
    left.release()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sync.main(["--spool", str(spool)])
    assert "1 run(s) sent" in capsys.readouterr().out
    assert list_spools(spool) == list(Path().iterdir()) == []


def test_an_address_is_read_as_sqlalchemy_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sqlite_path("sqlite:///a%20b/x.db?timeout=3") == tmp_path / "a b" / "x.db"
    assert sqlite_path("sqlite:////r/100%/x.db") == Path("/r/100%/x.db")
    for path in (Path("/a%20b/x.db"), Path("/a?b/#;x.db"), Path(os.fsdecode(b"/caf\xe9/x.db"))):
        assert sqlite_path(sqlite_uri(path)) == path


def test_the_address_of_a_database_with_a_question_mark_in_its_path_is_used(tmp_path):
    uri = sqlite_uri(tmp_path / "a?b" / "mine.db")
    assert track_one(uri).is_sent
    with contextlib.closing(sqlite3.connect(tmp_path / "a?b" / "mine.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,)


@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["run", "sweep"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        (os.fsdecode(b"caf\xe9"), "name is not UTF-8"),
        ("/".join(["y" * 200] * 3), "It may have 487"),
        ("z" * 256, "255"),
    ],
    ids=["not UTF-8", "a long path", "a long name"],
)
def test_a_folder_that_can_not_work_is_refused_at_the_start(call_command, tmp_path, name, said, mode):
    done = call_command(train.main, *mode, f"tracking.uri={sqlite_uri(tmp_path / name / 'mlflow.db')}")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_command_tracks_a_run_in_a_folder_with_a_percent_and_a_question_mark(tmp_path, run_python):
    folder = tmp_path / "a%20b?c"
    folder.mkdir()
    done = run_python("-m", "pipeline.train", "budget.epochs=1", folder=folder)
    assert (done.returncode, "MLflow run" in done.stdout) == (0, True), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list((folder / "mlruns" / "spool").iterdir()) == []
