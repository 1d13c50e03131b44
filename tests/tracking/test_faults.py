"""Faults of MLflow's store that can't pass by themselves: each command refuses them, and says what mends them."""

import contextlib
import logging
import shlex
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from alembic import command as alembic
from mlflow import MlflowClient, db
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils

from lr_study import Outcome, Progress, Sweep
from pipeline import advise, report, reproduce, sync, train
from pipeline.errors import RequestError
from pipeline.sweep.hooks import SweepHooks
from pipeline.tracking.check import check_target
from pipeline.tracking.faults import StoreUnavailableError, lasting_fault, latest_revision, read_errors, store_errors
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.spool.background import BackgroundUploader
from pipeline.tracking.spool.spool import list_spools
from pipeline.tracking.store import open_existing_store, open_store
from pipeline.tracking.sweep import ParentRun
from pipeline.tracking.target import TrackingTarget, sqlite_path

COMMANDS = {
    "train": (train.main, ()),
    "sweep": (train.main, ("-m",)),
    "report": (report.main, ("mine",)),
    "advise": (advise.main, ("--sweep", "mine", "--from-batch", "32", "--from-lr", "0.1", "--to-batch", "64")),
    "reproduce": (reproduce.main, ("0" * 32,)),
}
EXPERIMENT = ("tracking.experiment=tests",)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Forget the stores that other tests opened, and their servers' failures."""
    open_store.cache_clear()
    monkeypatch.setattr(BackgroundUploader, "_failed_at", -float("inf"))


@pytest.fixture
def database(own_target):
    """The database that every command uses in the test's folder."""
    return sqlite_path(own_target.uri)


@pytest.fixture
def refused(call_command, tmp_path):
    """Call each command in the test's folder; all must say the same and write nothing. Returns what was said."""

    def call(commands=COMMANDS):
        before = contents(tmp_path)
        said = set()
        for name, (main, arguments) in commands.items():
            done = call_command(main, *arguments)
            assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 2), (name, done)
            said.add(done.err.splitlines()[1])
        assert contents(tmp_path) == before
        (remedy,) = said
        return done.err.splitlines()[0], remedy

    return call


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def execute(database, statement, *values):
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement, values)


def test_a_database_of_an_older_mlflow_is_refused_with_the_command_that_mends_it(refused, database):
    config = utils._get_alembic_config(f"sqlite:///{database}")
    alembic.downgrade(config, "-3")
    what, remedy = refused()
    assert "of an older MLflow" in what
    program, *arguments = shlex.split(remedy[remedy.index("mlflow db upgrade") :])
    assert (program, arguments[:2]) == ("mlflow", ["db", "upgrade"])
    db.upgrade.callback(*arguments[2:])
    open_store(f"sqlite:///{database}", "tests")


def test_the_command_that_mends_a_database_is_quoted_and_has_no_password():
    error = MlflowException("Detected out-of-date database schema (found version 0584bdc529eb, but expected x)")
    fault = str(lasting_fault(error, "postgresql://me:secret@host/a b"))
    assert fault.endswith("mlflow db upgrade 'postgresql://me:***@host/a b'")


def test_a_database_of_a_newer_mlflow_is_refused(refused, database):
    execute(database, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    what, remedy = refused()
    assert "of a newer MLflow" in what
    assert remedy.startswith("Install the MLflow that made it")


def test_a_file_that_is_no_database_is_refused(refused, database):
    database.write_text("Some text that somebody put there.\n")
    what, remedy = refused()
    assert what.endswith("MLflow can't use it (file is not a database).")
    assert remedy.startswith("Move that file away")


def test_a_database_of_another_program_is_refused(refused, database):
    database.unlink()
    execute(database, "CREATE TABLE recipes (name TEXT)")
    what, _ = refused()
    assert "another program's (tables: recipes)" in what


def test_a_database_whose_last_writer_was_killed_in_a_transaction_is_used(own_target, database):
    program = (
        "import os, signal, sqlite3, sys\n"
        "writer = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "writer.execute('PRAGMA cache_size = 5')\n"
        "writer.execute('BEGIN IMMEDIATE')\n"
        "for number in range(1000):\n"
        "    writer.execute('INSERT INTO experiment_tags VALUES (?, ?, 0)', (f'key{number}', 'x' * 500))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(database)], check=False)
    assert database.with_name("mlflow.db-journal").stat().st_size > 0
    check_target(own_target)
    client = open_store(own_target.uri, own_target.experiment).client
    assert "key0" not in client.get_experiment("0").tags


def test_the_revision_that_is_read_from_mlflows_files_is_the_one_that_mlflow_works_with():
    assert latest_revision() == utils._get_latest_schema_revision()


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("attempt to write a readonly database", "Make the file writable"),
        ("database disk image is malformed", "Restore the file from a copy"),
        ('FATAL: password authentication failed for user "me"', "Give the right user and password"),
        ('FATAL: database "nope" does not exist', "Create that database"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed", "MLFLOW_TRACKING_SERVER_CERT_PATH"),
    ],
)
def test_what_a_database_or_a_connection_refuses_for_good_gets_its_remedy(said, remedy):
    with pytest.raises(RequestError, match=remedy), store_errors("postgresql://me:secret@host/db"):
        raise MlflowException("any") from RuntimeError(said)


@pytest.mark.parametrize("said", ["Connection refused", "database is locked", "database or disk is full", "HTTP 503"])
def test_what_may_pass_by_itself_is_an_outage(said):
    with pytest.raises(StoreUnavailableError, match=said), store_errors("http://host"):
        raise MlflowException(said)
    with pytest.raises(RequestError, match="Start its server"), read_errors("http://host"):
        raise MlflowException(said)


class NoAccess(BaseHTTPRequestHandler):
    """Answers every request with 403, as a server whose user may not write."""

    def answer(self):
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PATCH = answer  # noqa: N815  (http.server's names)

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """The target of a server that refuses access."""
    monkeypatch.chdir(tmp_path)
    with HTTPServer(("127.0.0.1", 0), NoAccess) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield TrackingTarget(f"http://me:secret@127.0.0.1:{server.server_port}", "tests")
        server.shutdown()
        thread.join()


def train_long(run):
    with run:
        for step in range(1000):
            run.log_metrics({"a": 1.0}, step)
            time.sleep(0.05)


def test_a_run_ends_soon_where_a_server_refuses_access_and_what_was_recorded_is_kept(closed, own_target, caplog):
    started = time.monotonic()
    run = TrackedRun(closed, "run", {"pipeline": "run"})
    with pytest.raises(RequestError) as refused:
        train_long(run)
    assert time.monotonic() - started < 20
    what, remedy, kept = str(refused.value).splitlines()
    assert what.endswith("the server refuses access (403).")
    assert "MLFLOW_TRACKING_USERNAME" in remedy
    assert f"recorded in {run.spool.path.parent}" in kept
    assert "python -m pipeline.sync --tracking-uri http://127.0.0.1" in kept
    assert "secret" not in str(refused.value)
    assert caplog.text == ""
    sync.main(["--spool", str(run.spool.path.parent), "--tracking-uri", own_target.uri, "--all"])
    store = open_existing_store(own_target.uri, "tests")
    (sent,) = store.client.search_runs([store.experiment_id])
    assert sent.data.metrics == {"a": 1.0}


def cell_of(config):
    return SimpleNamespace(name="batch=64", config=config, choices={}, dimensions=[])


def test_a_sweep_is_refused_before_its_first_trial_where_a_server_refuses_access(closed, composed, caplog):
    config = composed(f"tracking.uri={closed.uri}", "tracking.experiment=tests")
    with pytest.raises(RequestError, match=r"refuses access \(403\)"):
        SweepHooks().started(Sweep("mine", config, [cell_of(config)], total_trials=4, finished_trials=0))
    (left,) = list_spools(closed.spool)
    assert '"end":"failed"' in left.read_text()
    assert caplog.text == ""


@pytest.fixture
def deleted(own_target):
    """Delete the experiment, and return MLflow's client."""
    store = open_store(own_target.uri, own_target.experiment)
    store.client.delete_experiment(store.experiment_id)
    return store.client


def restore(client: MlflowClient, message: str) -> None:
    """Do what the command in a message does."""
    address, *command, experiment_id = shlex.split(message[message.index("MLFLOW_TRACKING_URI=") :].splitlines()[0])
    assert command == ["mlflow", "experiments", "restore", "--experiment-id"]
    MlflowClient(address.partition("=")[2]).restore_experiment(experiment_id)
    assert client.get_experiment(experiment_id).lifecycle_stage == "active"


def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(refused, own_target, deleted):
    commands = {
        name: (main, (*arguments, *(EXPERIMENT if main is train.main else ("--experiment", "tests"))))
        for name, (main, arguments) in COMMANDS.items()
        if name != "reproduce"
    }
    what, remedy = refused(commands)
    assert "the experiment tests was deleted there" in what
    restore(deleted, remedy)
    assert open_existing_store(own_target.uri, "tests")


def test_sync_says_how_to_restore_the_experiment_of_what_it_can_not_send(call_command, own_target, tmp_path):
    store = open_store(own_target.uri, own_target.experiment)
    with TrackedRun(own_target, "run", {}, quiet=True) as run:
        assert run.id
        store.client.delete_experiment(store.experiment_id)
        run.log_metrics({"a": 1.0}, 1)
    assert not run.is_sent
    done = call_command(sync.main)
    assert done.code == 2
    assert "1 run(s) could not be sent, and are kept" in done.err
    restore(store.client, done.err)
    done = call_command(sync.main)
    assert (done.code, "1 run(s) sent" in done.out) == (0, True)
    assert store.client.get_run(run.id).data.metrics == {"a": 1.0}


def test_a_run_whose_experiment_is_deleted_meanwhile_goes_on_and_says_how_to_send_the_rest(own_target, caplog):
    store = open_store(own_target.uri, own_target.experiment)
    with TrackedRun(own_target, "run", {}) as run:
        assert run.id
        store.client.delete_experiment(store.experiment_id)
        run.log_metrics({"a": 1.0}, 1)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "The run goes on, recorded in" in warning
    assert "when MLflow answers" not in warning
    restore(store.client, warning)


def test_a_sweep_whose_experiment_is_deleted_meanwhile_ends_with_the_command_that_restores_it(own_target):
    hooks = SweepHooks()
    hooks._target, hooks._name, hooks._parent = own_target, "s", ParentRun(own_target, "s")
    assert hooks._parent.id
    store = open_store(own_target.uri, own_target.experiment)
    store.client.delete_experiment(store.experiment_id)
    with TrackedRun(own_target, "trial", {"pipeline": "trial", "sweep": "s"}, quiet=True, sweep="s"):
        pass
    with pytest.raises(RequestError, match="mlflow experiments restore"):
        hooks.ended(Outcome("complete", Progress(1, 0, 1)))


def test_an_empty_name_of_an_experiment_is_refused(refused, database):
    said = refused(
        {
            "train": (train.main, ("tracking.experiment=",)),
            "sweep": (train.main, ("-m", "tracking.experiment=")),
            "report": (report.main, ("mine", "--experiment", "")),
        }
    )
    assert said[0] == "experiment '': a name has 1 to 500 printable characters, and not only blanks."
    assert "tracking.experiment=NAME" in said[1]


@pytest.mark.parametrize("name", ["  ", "x" * 501, "a\nb", "a\x00b", "caf\udce9"], ids=range(5))
def test_a_name_that_no_experiment_can_have_is_refused(name):
    with pytest.raises(RequestError, match="a name has 1 to 500 printable characters"):
        check_target(TrackingTarget("http://host", name))
