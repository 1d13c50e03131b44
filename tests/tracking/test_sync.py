"""`python -m pipeline.sync`: which store it sends to, and in which order."""

import shlex
from types import SimpleNamespace

import pytest
from rich.console import Console

from pipeline import sync
from pipeline.progress import LineReporter
from pipeline.tracking.leftovers import send_leftovers
from pipeline.tracking.location import Place
from pipeline.tracking.spool import Spool
from pipeline.tracking.spools import spools
from pipeline.tracking.store import open_existing_store


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """A folder with an empty `here` to stand in, and no address in the environment."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def leave(place, name="a", time=1000, end=True, **more):
    """What a run left, whose server was away."""
    header = {"store": place.label, "experiment": place.experiment, "name": name, "time": time, "tags": {"name": name}}
    spool = Spool.create(place.spool, header | more)
    if end:
        finish(spool)
    return spool


def finish(spool):
    spool.append_end("complete", "FINISHED")
    spool.release()


def runs(place):
    store = open_existing_store(place.uri, place.experiment)
    return {run.data.tags["name"]: run for run in store.client.search_runs([store.experiment_id])}


def test_it_sends_to_the_address_in_the_environment(make_place, tmp_path, monkeypatch, capsys):
    place = make_place(tmp_path / "there")
    leave(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    sync.main([])
    assert "1 run(s) sent" in capsys.readouterr().out
    assert list(runs(place)) == ["a"]


def test_an_address_that_is_given_goes_before_the_environments(make_place, tmp_path, monkeypatch):
    place = make_place(tmp_path / "there")
    leave(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    sync.main(["--tracking-uri", place.uri])
    assert list(runs(place)) == ["a"]


@pytest.mark.parametrize("environment", [None, "sqlite:///mlruns/mlflow.db"])
def test_records_of_another_folder_go_to_the_database_beside_them(
    make_place, tmp_path, monkeypatch, capsys, environment
):
    place = make_place(tmp_path / "there")
    leave(place)
    if environment is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    sync.main(["--spool", str(place.spool)])
    assert "1 run(s) sent" in capsys.readouterr().out
    assert list(runs(place)) == ["a"]
    assert list((tmp_path / "here").iterdir()) == []


def test_a_database_of_the_same_name_elsewhere_gets_nothing(make_place, tmp_path, capsys):
    place = make_place(tmp_path / "there")
    leave(place)
    sent = send_leftovers(place.spool, "sqlite:///mlruns/mlflow.db")
    assert (sent.elsewhere, sent.runs) == (1, [])
    sync.main(["--spool", str(place.spool), "--tracking-uri", "sqlite:///mlruns/mlflow.db"])
    assert "1 record(s) are for another store" in capsys.readouterr().out
    assert list((tmp_path / "here").iterdir()) == []
    assert len(spools(place.spool)) == 1


def test_the_command_that_a_run_shows_sends_it(make_place, tmp_path, monkeypatch, capsys):
    place = make_place(tmp_path / "my runs")
    spool = leave(place)
    run = SimpleNamespace(place=place, spool=spool, is_sent=False, id=None)
    LineReporter(Console(soft_wrap=True)).done(SimpleNamespace(status="complete", steps=5), run)
    said = capsys.readouterr().out
    command = said[said.index("python -m pipeline.sync") : said.rindex(")")]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    sync.main(shlex.split(command)[3:])
    assert list(runs(place)) == ["a"]


def test_the_command_names_a_server_without_its_password_and_the_record_is_that_servers():
    place = Place("https://me:hunter2@mlflow.example/", "tests")
    assert place.sync_command == (
        "python -m pipeline.sync --tracking-uri https://mlflow.example, with user and password in the address"
    )
    assert Place("https://mlflow.example", "").is_of(place.label, place.spool)
    assert place.is_of("https://me:***@mlflow.example", place.spool), "as records named it before"
    assert not Place("https://other.example", "").is_of(place.label, place.spool)


@pytest.mark.parametrize("clock", [2000, 500], ids=["later", "by a clock that is behind"])
def test_one_sync_sends_a_sweep_and_its_trials_though_the_sweep_ended_last(make_place, tmp_path, clock):
    place = make_place(tmp_path / "there")
    parent = leave(place, "sweep", end=False, tags={"name": "sweep", "pipeline": "sweep", "sweep": "s"})
    for number in range(3):
        leave(place, f"trial {number}", time=clock + number, sweep="s")
    finish(parent)
    sync.main(["--tracking-uri", place.uri])
    found = runs(place)
    assert len(found) == 4
    parents = {run.data.tags.get("mlflow.parentRunId") for name, run in found.items() if name != "sweep"}
    assert parents == {found["sweep"].info.run_id}
    assert spools(place.spool) == []


def test_records_are_ordered_by_when_their_runs_began(own_place):
    for name, time in (("third", 3000), ("first", 1000), ("second", 2000)):
        leave(own_place, name, time)
    assert [path.read_text().split('"name":"')[1].split('"')[0] for path in spools(own_place.spool)] == [
        "first",
        "second",
        "third",
    ]
