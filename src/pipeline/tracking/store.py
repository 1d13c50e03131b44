"""Open MLflow's store: for writing, where the first process creates what is missing, or for reading only."""

import contextlib
import functools
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lr_study.masking import mask_passwords

# Set before MLflow is imported, which would otherwise reach out, and spend more time on it.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Seconds for one request, and no repetition of it by MLflow itself: a repeated request to create a run creates two.
# `Uploader` tries again, and first looks whether the request got through. With MLflow's own defaults a server that
# hangs would hold up the end of a run for a quarter of an hour.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

import sqlalchemy
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException

from pipeline.errors import RequestError
from pipeline.tracking.check import check_address, check_experiment
from pipeline.tracking.connections import close_connections
from pipeline.tracking.database_file import check_database
from pipeline.tracking.faults import deleted_experiment, read_errors
from pipeline.tracking.target import (
    artifact_folder,
    is_server,
    server_page,
    sqlite_path,
    warn_of_unused_variables,
)

# Seconds that a writer waits for another one's transaction; SQLite's own default is five.
BUSY_TIMEOUT = 120
# Characters of a folder's name. File systems take 255 bytes, and one character takes up to four.
LONGEST_FOLDER = 50
# MLflow's error code for a run or an experiment that isn't there.
NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class Store:
    """An MLflow client, the id of the experiment that runs go to, and the URI as the user knows it."""

    client: MlflowClient
    experiment_id: str
    uri: str

    def run_url(self, run_id: str) -> str:
        """Return the address of the run's page. For a database it is a page of `make ui`."""
        server = server_page(self.uri) if is_server(self.uri) else "http://127.0.0.1:5000"
        return f"{server}/#/experiments/{self.experiment_id}/runs/{run_id}"


@functools.lru_cache(maxsize=4)
def open_store(uri: str, experiment: str) -> Store:
    """Connect to the store at `uri`, and create database and experiment if they are missing.

    Processes that meet an incomplete SQLite database each try to complete it, and break it for good; readers and
    MLflow's own UI do so too. So the database is created in a file of another name, under a lock, and then renamed.

    Raises:
        RequestError: the database is damaged or of another version, or the experiment was deleted.
    """
    _silence_mlflow()
    path, artifacts = sqlite_path(uri), artifact_folder(uri)
    if path is not None and artifacts is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_database(path)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                arriving = path.with_suffix(f".arriving-{os.getpid()}")
                _create_tables(arriving, artifacts)
                _experiment_id(_sqlite_client(arriving), experiment, artifacts, uri)
                close_connections()
                os.replace(arriving, path)
            client = _sqlite_client(path)
            return Store(client, _experiment_id(client, experiment, artifacts, uri), uri)
    check_address(uri)
    with contextlib.nullcontext() if is_server(uri) else _database_lock(uri):
        client = MlflowClient(tracking_uri=uri)
        return Store(client, _experiment_id(client, experiment, artifacts, uri), uri)


def open_existing_store(uri: str, experiment: str) -> Store:
    """Connect for reading: nothing is created.

    Raises:
        RequestError: there is no such database or experiment, it was deleted, or the store can't be read.
    """
    check_experiment(experiment)
    warn_of_unused_variables()
    with read_errors(uri):
        client = open_for_reading(uri)
        found = client.get_experiment_by_name(experiment)
    if found is None:
        raise RequestError(f"{mask_passwords(uri)}: it has no experiment {experiment}.\nName another: --experiment.")
    check_active(found, uri)
    return Store(client, found.experiment_id, uri)


def open_for_reading(uri: str) -> MlflowClient:
    """Return a client for the store at `uri`; nothing is created.

    Raises:
        RequestError: there is no such database, MLflow can't use it, or it can't be reached; `uri` is no address.
    """
    with read_errors(uri):
        client = open_client(uri)
    if client is None:
        raise RequestError(
            f"{sqlite_path(uri)}: no tracking database there.\nRun something first (make study), or set tracking.uri."
        )
    return client


def open_client(uri: str) -> MlflowClient | None:
    """Return a client for the store at `uri`, or None for a database file that isn't there; nothing is created.

    Raises:
        RequestError: MLflow can't use the database, or `uri` is no address.
        Exception: a database can't be reached now.
    """
    _silence_mlflow()
    path = sqlite_path(uri)
    if path is not None:
        check_database(path)
        return _sqlite_client(path) if path.is_file() else None
    check_address(uri)
    if not is_server(uri):
        _connect(uri).close()  # MLflow itself would try for 90 s before it gave up
    return MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """Hold a lock in the database itself while tables may be created; the database frees it if its holder dies."""
    with _connect(uri) as connection:
        take, free = {
            "postgresql": ("SELECT pg_advisory_lock(7283641)", "SELECT pg_advisory_unlock(7283641)"),
            "mysql": ("SELECT GET_LOCK('pipeline', 60)", "SELECT RELEASE_LOCK('pipeline')"),
        }.get(connection.dialect.name, ("SELECT 1", "SELECT 1"))
        connection.execute(sqlalchemy.text(take))
        try:
            yield
        finally:
            connection.execute(sqlalchemy.text(free))


def _connect(uri: str) -> sqlalchemy.Connection:
    return sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect()


def _create_tables(path: Path, artifacts: Path) -> None:
    """Create MLflow's tables, and its experiment `Default`, in a new SQLite file.

    MLflow's client would take the working directory as the place of that experiment's artifacts, and put its name into
    the SQL as it is, quotes and colons too.
    """
    # Private part of MLflow: without it, `Default`, which nothing here uses, has that place.
    try:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    except ImportError:
        _sqlite_client(path).search_experiments(max_results=1)
        return
    SqlAlchemyStore(_sqlite_address(path), artifacts.as_uri())


def _sqlite_client(path: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=_sqlite_address(path))


def _sqlite_address(path: Path) -> str:
    """Return the address by which MLflow opens the database file at `path`, which may have any name.

    SQLite's own form of an address, `file:PATH`, can express each. Its slashes are quoted too: MLflow takes what stands
    before a slash for a folder, and creates it.
    """
    database = f"file:{quote(os.fsencode(path), safe='')}"
    url = sqlalchemy.URL.create("sqlite", database=database, query={"uri": "true", "timeout": str(BUSY_TIMEOUT)})
    return url.render_as_string()


def check_active(experiment: Experiment, uri: str) -> None:
    """Raise RequestError for an experiment that was deleted: MLflow finds it by its name, and takes no runs for it."""
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise deleted_experiment(uri, experiment.name, experiment.experiment_id)


def _experiment_id(client: MlflowClient, name: str, artifacts: Path | None, uri: str) -> str:
    """Find or create the experiment; its artifacts lie in a folder of `artifacts`, or where the server puts them."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        check_active(found, uri)
        return found.experiment_id
    location = None if artifacts is None else (artifacts / folder_name(name)).as_uri()
    try:
        # With this tag MLflow's pages show charts and tables of training, not of conversations with language models.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client.create_experiment(name, artifact_location=location, tags=kind)
    except MlflowException:
        # On a server, where there is no file lock, another process may have created it just now.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id


def folder_name(experiment: str) -> str:
    """Return the name of the folder for an experiment's artifacts: the experiment's own, if that is a plain one.

    An experiment's name with / or .. in it must not lead out of the folder of artifacts.
    """
    plain = re.sub(r"[^\w ()+=@,.-]", "_", experiment).strip(" .")[:LONGEST_FOLDER]
    if plain == experiment:
        return plain
    return f"{plain}-{hashlib.sha256(experiment.encode(errors='replace')).hexdigest()[:8]}".lstrip("-")


def _silence_mlflow() -> None:
    """Keep back what MLflow logs for a new database and for its migrations, and the errors that it raises as well."""
    for name in ("alembic", "mlflow.tracking", "mlflow.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
