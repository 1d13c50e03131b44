"""`python -m pipeline.sync`: to which store it sends, and in which order."""

import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import sync
from pipeline.engine import FitResult
from pipeline.errors import RunError
from pipeline.run.progress import Reporter
from pipeline.run.replicates import Replicates
from pipeline.tracking.spool.recovery import upload_unsent
from pipeline.tracking.spool.spool import Spool, list_spools
from pipeline.tracking.store import open_existing_store
from pipeline.tracking.target import TrackingTarget


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """Use an empty folder `here` as working directory, and no address from the environment."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def leave(target, name="a", time=1000, end=True, **more):
    """Leave the spool of a run whose server was away."""
    header = {
        "store": target.label,
        "experiment": target.experiment,
        "name": name,
        "time": time,
        "tags": {"name": name},
    }
    spool = Spool.create(target.spool, header | more)
    if end:
        finish(spool)
    return spool


def finish(spool):
    spool.append_end("complete", "FINISHED")
    spool.release()


def runs(target):
    store = open_existing_store(target.uri, target.experiment)
    return {run.data.tags["name"]: run for run in store.client.search_runs([store.experiment_id])}


def test_sync_sends_to_the_address_in_the_environment(make_target, tmp_path, monkeypatch, capsys):
    target = make_target(tmp_path / "there")
    leave(target)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", target.uri)
    sync.main([])
    assert "1 run(s) sent" in capsys.readouterr().out
    assert list(runs(target)) == ["a"]


def test_a_given_address_takes_precedence_over_the_environments(make_target, tmp_path, monkeypatch):
    target = make_target(tmp_path / "there")
    leave(target)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    sync.main(["--tracking-uri", target.uri])
    assert list(runs(target)) == ["a"]


@pytest.mark.parametrize("environment", [None, "sqlite:///mlruns/mlflow.db"])
def test_spools_of_another_folder_are_sent_to_the_database_beside_them(
    make_target, tmp_path, monkeypatch, capsys, environment
):
    target = make_target(tmp_path / "there")
    leave(target)
    if environment is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    sync.main(["--spool", str(target.spool)])
    assert "1 run(s) sent" in capsys.readouterr().out
    assert list(runs(target)) == ["a"]
    assert list((tmp_path / "here").iterdir()) == []


def test_spools_are_not_sent_to_a_database_of_the_same_name_in_another_folder(make_target, tmp_path, capsys):
    target = make_target(tmp_path / "there")
    leave(target)
    sent = upload_unsent(target.spool, "sqlite:///mlruns/mlflow.db")
    assert (sent.other_store, sent.runs) == (1, [])
    sync.main(["--spool", str(target.spool), "--tracking-uri", "sqlite:///mlruns/mlflow.db"])
    assert "1 record(s) are for another store" in capsys.readouterr().out
    assert list((tmp_path / "here").iterdir()) == []
    assert len(list_spools(target.spool)) == 1


def test_the_command_that_a_run_prints_sends_it(make_target, tmp_path, monkeypatch, capsys):
    target = make_target(tmp_path / "my runs")
    spool = leave(target)
    run = SimpleNamespace(target=target, spool=spool, is_sent=False, id=None)
    Reporter(total_steps=5).done(Replicates({0: FitResult("complete", steps=5)}), run)
    said = capsys.readouterr().out
    command = said[said.index("python -m pipeline.sync") :].strip()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    sync.main(shlex.split(command)[3:])
    assert list(runs(target)) == ["a"]


def test_command_and_label_name_a_server_without_its_password():
    target = TrackingTarget("https://me:hunter2@mlflow.example/", "tests")
    assert target.sync_command == (
        "python -m pipeline.sync --tracking-uri https://mlflow.example, with user and password in the address"
    )
    assert TrackingTarget("https://mlflow.example", "").matches(target.label, target.spool)
    assert target.matches("https://me:***@mlflow.example", target.spool), "as earlier versions named it"
    assert not TrackingTarget("https://other.example", "").matches(target.label, target.spool)


@pytest.mark.parametrize("clock", [2000, 500], ids=["later", "by a clock that is behind"])
def test_one_sync_sends_a_sweep_and_its_trials_even_if_the_sweep_ended_last(make_target, tmp_path, clock):
    target = make_target(tmp_path / "there")
    parent = leave(target, "sweep", end=False, tags={"name": "sweep", "pipeline": "sweep", "sweep": "s"})
    for number in range(3):
        leave(target, f"trial {number}", time=clock + number, sweep="s")
    finish(parent)
    sync.main(["--tracking-uri", target.uri])
    found = runs(target)
    assert len(found) == 4
    parents = {run.data.tags.get("mlflow.parentRunId") for name, run in found.items() if name != "sweep"}
    assert parents == {found["sweep"].info.run_id}
    assert list_spools(target.spool) == []


def test_spools_are_ordered_by_when_their_runs_began(own_target):
    for name, time in (("third", 3000), ("first", 1000), ("second", 2000)):
        leave(own_target, name, time)
    assert [path.read_text().split('"name":"')[1].split('"')[0] for path in list_spools(own_target.spool)] == [
        "first",
        "second",
        "third",
    ]


def test_what_is_no_record_of_a_run_is_named_and_nothing_waits_for_it(make_target, capsys):
    target = make_target(Path("folder").absolute())
    leave(target)
    os.mkfifo(target.spool / "fifo.jsonl")
    (target.spool / "folder.jsonl").mkdir()
    (target.spool / "list.jsonl").write_text("[1,2]\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"list.jsonl \(it is no record of a run; move it away\)"):
        sync.main(["--spool", str(target.spool), "--tracking-uri", target.uri])
    assert list(runs(target)) == ["a"]
