"""What all tests share.

A test looks at behaviour from as near as it can. Pure functions are called. A command is called in the test's own
process with `call_command`, or run as a process with `run_python` where its streams, its exit or its workers are what
is tested. Most of these processes are forks of a server that has imported torch and MLflow (`tests/forkserver.py`);
a test of start-up, imports, signals or environment variables says `fresh=True` and gets a new interpreter, and so does
one test of each command. Whatever a command prints goes through `tests.outputs.check`, which fails on a traceback, a
library's warning or a line over 200 characters, unless the test names it. Where a test calls `main` itself, errors
reach the test, and pytest fails it for an error in a thread.

Each folder of `tests` is named after the package that it tests; `integration` holds tests of whole commands, with real
data and a real store, and `cluster` those that need Slurm, Ray and PostgreSQL. `trained` and `swept` are one run and one
sweep that are made once for all tests, which only read them. Tests marked `slow`, `long` and `cluster` have their own
targets in the Makefile; `environments.py` runs all others with other versions of Python and of packages.
"""

import os

# The tests run side by side, one on each core: threads of their own would only get in each other's way.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import contextlib
import functools
import gc
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from filelock import FileLock
from hydra import compose, initialize_config_dir

from pipeline import config
from pipeline.command import run_command
from pipeline.process.collector import collect_seldom
from pipeline.tracking.connections import close_connections
from tests import outputs
from tests.databases import copy_for_new_stores, make_database
from tests.forkserver import ForkServer

# A shell without job control starts background programs with Ctrl-C ignored, and so would be what tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hydra parses fifteen files for each composition, which takes a quarter less with the parser that is written in C.
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

collect_seldom()
REPOSITORY = Path(__file__).resolve().parents[1]
SWEEP = (
    *("-m", "pipeline.train", "-m", "batch=32,128", "seed=0,1", "budget.epochs=2"),
    *("report.confirm.looks=[2]", "hydra.sweeper.n_trials=8"),
)


def pytest_collection_finish() -> None:
    """Keep the garbage collector off the modules that collection imported: that takes a fifth of a composition."""
    gc.collect()
    gc.freeze()


def user_environment(**more: str) -> dict[str, str]:
    """The environment for a program, without what would lead it to another store than its folder's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "HYDRA_"))}
    return kept | more


def copy_results(source: Path, target: Path) -> Path:
    """Copy a folder with `mlruns`, and have MLflow's database name the copy's artifacts; returns `target`."""
    shutil.copytree(source, target)
    with contextlib.closing(sqlite3.connect(target / "mlruns" / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (f"{source}/", f"{target}/"))
    return target


@pytest.fixture
def composed():
    """Compose the project's configuration with overrides: `composed("batch=256")`."""
    config.register()

    def compose_with(*overrides: str):
        with initialize_config_dir(config.conf_dir(), version_base="1.3"):
            return compose("config", list(overrides))

    return compose_with


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """Make a folder once for all of xdist's workers: `made_once("trained", fill)`; returns it."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = shared / f"shared-{name}", shared / f"shared-{name}.done"
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # another worker may have failed to fill it
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session", autouse=True)
def empty_database(made_once):
    """An SQLite file with MLflow's empty tables; new databases of this process and of forks are copies of it."""
    database = made_once("database", lambda folder: make_database(folder / "mlflow.db")) / "mlflow.db"
    copy_for_new_stores(database)
    return database


@pytest.fixture(autouse=True)
def closed_databases():
    """Close what MLflow has opened in this process, as a command does at its end."""
    yield
    close_connections()


@pytest.fixture(scope="session")
def fork_server(empty_database):
    server = ForkServer(empty_database, user_environment())
    yield server
    server.close()


@pytest.fixture
def start_python(tmp_path, request):
    """Start `python *arguments` in the background; it doesn't outlive the test.

    Returns a `subprocess.Popen`, or with `fresh=False` a `ForkedProcess`, which has the same methods. Its `communicate`
    checks what it printed; see `tests.outputs.check` for `allow`.
    """
    started = []

    def start(
        *arguments: str,
        folder: Path = tmp_path,
        fresh: bool = False,
        new_session: bool = False,
        allow: Mapping[str, str] | None = None,
        **more: str,
    ):
        environment = user_environment(**more)
        if fresh or more or not hasattr(os, "pidfd_open"):  # many variables are read by imports
            process = outputs.CheckedPython(
                *arguments, folder=folder, allow=allow, env=environment, start_new_session=new_session
            )
        else:
            server: ForkServer = request.getfixturevalue("fork_server")
            check = functools.partial(outputs.check, allow=allow, folder=folder)
            process = server.start(arguments, folder, environment, new_session, check)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            stream.close()


@pytest.fixture
def run_python(start_python):
    """Run `python *arguments` in an empty folder, as a user would; returns a `subprocess.CompletedProcess`.

    Args:
        fresh: in a new interpreter, and not in a fork that has imported torch and MLflow. So is what has environment
            variables of its own.
        allow: what this command may print, with the reason; see `tests.outputs.check`.
    """

    def run(*arguments: str, timeout: float = 240, **more):
        process = start_python(*arguments, **more)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    return run


@pytest.fixture
def call_command(tmp_path, monkeypatch, capsys):
    """Call a command's `main` in this process, in an empty folder; returns its exit code and what it printed.

    `call_command(train.main, "batch=0")` does what `python -m pipeline.train batch=0` does.
    """

    def call(main: Callable[[], object], *arguments: str) -> SimpleNamespace:
        config.register()
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        with pytest.raises(SystemExit) as end:
            run_command(main)
        said = capsys.readouterr()
        outputs.check(said.out, said.err, folder=tmp_path)
        return SimpleNamespace(code=end.value.code, out=said.out, err=said.err)

    return call


@pytest.fixture(scope="session")
def trained(made_once):
    """A run of the defaults at batch 128 and seed 3: its folder, and what it printed. Tests only read it."""
    return _finished(made_once, "trained", ("-m", "pipeline.train", "batch=128", "seed=3"))


@pytest.fixture(scope="session")
def swept(made_once):
    """The sweep `SWEEP`: its folder, and what it printed. Tests only read it."""
    return _finished(made_once, "swept", SWEEP)


def _finished(made_once, name: str, arguments: Sequence[str]) -> SimpleNamespace:
    """Run a new interpreter once for all tests, in a folder of its own."""

    def fill(folder: Path) -> None:
        command = [sys.executable, *arguments]
        (folder / "work").mkdir()
        done = subprocess.run(
            command, cwd=folder / "work", env=user_environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs.check(done.stdout, done.stderr, folder=folder)
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)

    folder = made_once(name, fill)
    printed = {stream: (folder / stream).read_text() for stream in ("stdout", "stderr")}
    return SimpleNamespace(folder=folder / "work", **printed)
