"""Finding a run to go on with, while others may be sending what it left."""

import threading

import pytest

from pipeline.tracking.location import Place
from pipeline.tracking.resume import claim
from pipeline.tracking.spool import RESUMED_FROM, Spool


@pytest.fixture
def place(tmp_path):
    return Place(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "tests")


def load(path):
    return path.read_text() if path.exists() else None


def leave(place, digest="d", state="state", end=None, time=1000):
    """What a run left that was to be gone on with."""
    tags = {"config_digest": digest}
    header = {"store": place.label, "experiment": "tests", "name": "a", "time": time, "tags": tags, "resumable": True}
    spool = Spool.create(place.spool, header)
    if state is not None:
        spool.files.mkdir()
        (spool.files / RESUMED_FROM).write_text(state)
    if end is not None:
        spool.append_end(end, "KILLED")
    spool.release()
    return spool.path


class Sender(threading.Thread):
    """Holds a record for some time, as another process does that sends it."""

    def __init__(self, path, seconds, over=lambda spool: None):
        super().__init__()
        self.path, self.seconds, self.over = path, seconds, over
        self.holds = threading.Event()
        self.let_go = threading.Event()

    def __enter__(self):
        self.start()
        assert self.holds.wait(10)

    def __exit__(self, *error):
        self.let_go.set()
        self.join()

    def run(self):
        spool = Spool.open(self.path)
        self.holds.set()
        self.let_go.wait(self.seconds)
        self.over(spool)
        spool.release()


@pytest.mark.parametrize("end", [None, "interrupted"])
def test_a_run_that_is_being_sent_is_waited_for_and_gone_on_with(place, end):
    path = leave(place, end=end)
    with Sender(path, 0.5):
        spool, state = claim(place, "d", load)
    assert (spool.path, state) == (path, "state")
    assert not spool.has_ended()
    spool.release()


def test_a_run_that_stays_held_is_given_up_with_a_warning(place, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.tracking.resume.SENDING_SECONDS", 0.2)
    with Sender(leave(place), 60):
        assert claim(place, "d", load) is None
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "held still" in said


def test_a_run_that_is_sent_to_its_end_meanwhile_is_nothing_to_go_on_with(place, caplog):
    with Sender(leave(place, state=None), 0.3, over=Spool.remove):
        assert claim(place, "d", load) is None
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_record_of_another_request_is_not_waited_for(place, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.resume.SENDING_SECONDS", 600)
    mine = leave(place, time=1000)
    with Sender(leave(place, digest="another", time=2000), 60):
        spool, _ = claim(place, "d", load)
    assert spool.path == mine
    spool.release()


def test_the_newest_run_of_the_request_is_taken(place):
    newest = leave(place, state="newest", time=3000)
    leave(place, time=2000)
    spool, state = claim(place, "d", load)
    assert (spool.path, state) == (newest, "newest")
    spool.release()
