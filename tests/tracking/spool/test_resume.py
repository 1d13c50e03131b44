"""Finding a crashed run to resume, while another process may be sending its spool."""

import threading

import pytest

from pipeline.tracking.spool.resume import claim_resumable
from pipeline.tracking.spool.spool import RESUMED_FROM, Spool
from pipeline.tracking.target import TrackingTarget


@pytest.fixture
def target(tmp_path):
    return TrackingTarget(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "tests")


def load(path):
    return path.read_text() if path.exists() else None


def leave(target, digest="d", state="state", end=None, time=1000):
    """Leave the spool of a resumable run that crashed."""
    tags = {"config_digest": digest}
    header = {"store": target.label, "experiment": "tests", "name": "a", "time": time, "tags": tags, "resumable": True}
    spool = Spool.create(target.spool, header)
    if state is not None:
        spool.files.mkdir()
        (spool.files / RESUMED_FROM).write_text(state)
    if end is not None:
        spool.append_end(end, "KILLED")
    spool.release()
    return spool.path


class Sender(threading.Thread):
    """Holds a spool for some time, as a process that sends it does."""

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
def test_a_run_is_resumed_after_another_process_has_sent_it(target, end):
    path = leave(target, end=end)
    with Sender(path, 0.5):
        spool, state = claim_resumable(target, "d", load)
    assert (spool.path, state) == (path, "state")
    assert spool.ending() is None
    spool.release()


def test_a_run_that_another_process_keeps_is_not_resumed_with_a_warning(target, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.tracking.spool.resume.SENDING_SECONDS", 0.2)
    with Sender(leave(target), 60):
        assert claim_resumable(target, "d", load) is None
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "not resumed" in said


def test_a_run_that_was_sent_and_removed_during_the_wait_is_not_resumed(target, caplog):
    with Sender(leave(target, state=None), 0.3, over=Spool.remove):
        assert claim_resumable(target, "d", load) is None
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_no_wait_for_a_run_of_another_configuration(target, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.spool.resume.SENDING_SECONDS", 600)
    mine = leave(target, time=1000)
    with Sender(leave(target, digest="another", time=2000), 60):
        spool, _ = claim_resumable(target, "d", load)
    assert spool.path == mine
    spool.release()


def test_the_newest_run_of_the_same_configuration_is_resumed(target):
    newest = leave(target, state="newest", time=3000)
    leave(target, time=2000)
    spool, state = claim_resumable(target, "d", load)
    assert (spool.path, state) == (newest, "newest")
    spool.release()
