"""Opening MLflow's store: created once, under a file lock, whoever comes first."""

import contextlib
import functools
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lr_study.masking import mask_passwords

# MLflow's start is a second of imports; these keep it from reaching out on the way.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Seconds for one request, and repetitions of it. What fails is tried again by who sends it (`courier`), who looks
# first whether it was done after all: MLflow's own repetition of a request to make a run makes two. And a server that
# hangs must not hold up the end of a run for the quarter of an hour that MLflow would wait.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

import sqlalchemy
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import RequestError, RunError
from pipeline.tracking.spool.background import reason_of
from pipeline.tracking.target import (
    check_address,
    is_server,
    server_page,
    sqlite_path,
)

# Seconds that a writer waits for another one's transaction, instead of SQLite's usual five.
BUSY_TIMEOUT = 120
# Characters of a folder's name, far below what file systems take, also where each takes four bytes.
LONGEST_FOLDER = 50


class AwayError(RunError):
    """MLflow, which answered before, can't be read or written now."""


@dataclass(frozen=True)
class Store:
    """An MLflow client, the id of the experiment that runs go to, and the URI as the user knows it."""

    client: MlflowClient
    experiment_id: str
    uri: str

    def run_url(self, run_id: str) -> str:
        """Where MLflow's pages show a run; those of a database are served by `make ui`."""
        server = server_page(self.uri) if is_server(self.uri) else "http://127.0.0.1:5000"
        return f"{server}/#/experiments/{self.experiment_id}/runs/{run_id}"


def import_for(uri: str) -> None:
    """Import what MLflow needs for the store at `uri`, which it would do when it is opened; a database takes 0.6 s."""
    if not is_server(uri):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


@functools.lru_cache(maxsize=4)
def open_store(uri: str, experiment: str) -> Store:
    """Connect to the tracking store at `uri`, creating database and experiment where they are missing.

    Processes that meet a half-made SQLite database each try to complete it and break it for good, readers and
    MLflow's own UI among them. So it is made in a file beside, under a lock, and moved into place whole.
    """
    _quiet()
    path = sqlite_path(uri)
    if path is None:
        check_address(uri)
    if path is None and is_server(uri):
        client = MlflowClient(tracking_uri=uri)
        return Store(client, _experiment_id(client, experiment, artifacts=None), uri)
    if path is None:
        with _database_lock(uri):
            client = MlflowClient(tracking_uri=uri)
            return Store(client, _experiment_id(client, experiment, Path("mlruns/artifacts").absolute()), uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    artifacts = path.parent / "artifacts"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            arriving = path.with_suffix(f".arriving-{os.getpid()}")
            _experiment_id(MlflowClient(tracking_uri=f"sqlite:///{arriving}"), experiment, artifacts)
            os.replace(arriving, path)
        client = _sqlite_client(path)
        return Store(client, _experiment_id(client, experiment, artifacts), uri)


@contextlib.contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn whatever MLflow at `uri`, its database or its artifact store has to say inside of the block into one error.

    Raises:
        AwayError: with one line that says why.
    """
    try:
        yield
    except (RequestError, AwayError):
        raise
    except Exception as error:  # of requests, urllib3, SQLAlchemy, MLflow, a cloud's client …
        raise AwayError(f"MLflow at {mask_passwords(uri)} can't be used now ({reason_of(error)}).") from error


@contextlib.contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """Hold a lock that the database itself keeps, and frees when its holder dies, while tables may be made."""
    with _connection(uri) as connection:
        take, free = {
            "postgresql": ("SELECT pg_advisory_lock(7283641)", "SELECT pg_advisory_unlock(7283641)"),
            "mysql": ("SELECT GET_LOCK('pipeline', 60)", "SELECT RELEASE_LOCK('pipeline')"),
        }.get(connection.dialect.name, ("SELECT 1", "SELECT 1"))
        connection.execute(sqlalchemy.text(take))
        try:
            yield
        finally:
            connection.execute(sqlalchemy.text(free))


def _connection(uri: str) -> sqlalchemy.Connection:
    return sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect()


def _sqlite_client(path: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{path}?timeout={BUSY_TIMEOUT}")


def open_existing_store(uri: str, experiment: str) -> Store:
    """Connect for reading: nothing is created.

    Raises:
        RequestError: there is no such database or experiment, or the server can't be reached.
    """
    client = open_for_reading(uri)
    try:
        found = client.get_experiment_by_name(experiment)
    except Exception as error:  # of requests, urllib3, SQLAlchemy, MLflow …
        reason = _reason(error)
        raise RequestError(
            f"{mask_passwords(uri)}: MLflow can't be read there ({reason})."
            "\nStart its server, or name another store: --tracking-uri."
        ) from None
    if found is None:
        raise RequestError(f"{mask_passwords(uri)}: it has no experiment {experiment}.\nName another: --experiment.")
    return Store(client, found.experiment_id, uri)


def open_for_reading(uri: str) -> MlflowClient:
    """A client for the store at `uri`, of which nothing is created.

    Raises:
        RequestError: there is no such database, or `uri` is no address.
    """
    _quiet()
    path = sqlite_path(uri)
    if path is None:
        check_address(uri)
        try:
            if not is_server(uri):
                with _connection(uri):  # MLflow would try for a minute and a half before it said that nobody answers
                    pass
            return MlflowClient(tracking_uri=uri)
        except Exception as error:  # of SQLAlchemy, or of a driver that isn't installed
            reason = _reason(error)
            raise RequestError(f"{mask_passwords(uri)}: MLflow can't be read there ({reason}).") from None
    if not path.is_file():
        raise RequestError(
            f"{path}: no tracking database there.\nRun something first (make study), or set tracking.uri."
        )
    return _sqlite_client(path)


def _reason(error: Exception) -> str:
    """Its first line, without passwords: masked before it is cut, for half a password is one."""
    return mask_passwords((str(error).splitlines() or [type(error).__name__])[0])[:200]


def _experiment_id(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None if artifacts is None else (artifacts / folder_name(name)).as_uri()
    try:
        # So that MLflow's pages show charts and tables of training, and not of conversations with language models.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client.create_experiment(name, artifact_location=location, tags=kind)
    except MlflowException:
        # On a server there is no file lock: another process may have been faster.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id


def folder_name(experiment: str) -> str:
    """What the folder of an experiment's artifacts is called: its name, where that is one plain folder's.

    A name with / or .. in it must not lead out of the folder of artifacts.
    """
    plain = re.sub(r"[^\w ()+=@,.-]", "_", experiment).strip(" .")[:LONGEST_FOLDER]
    if plain == experiment:
        return plain
    return f"{plain}-{hashlib.sha256(experiment.encode(errors='replace')).hexdigest()[:8]}".lstrip("-")


def _quiet() -> None:
    """A new database is no news, and neither is each of its migrations."""
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking", "mlflow.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
