"""Import MLflow, with what it would import later when it opens a store."""

import contextlib
import importlib

from pipeline.tracking.target import TrackingTarget, is_server, sqlite_path

OF_EVERY_STORE = ("pipeline.tracking.spool.uploader", "pipeline.tracking.spool.recovery")
# Private parts of MLflow and of Alembic: without them, MLflow imports what it needs in the middle of a run.
OF_DATABASES = ("mlflow.store.tracking.sqlalchemy_workspace_store", "alembic.command", "alembic.config")


def load_mlflow(uri: str) -> None:
    """Import all that sending to the store at `uri` needs.

    Raises:
        ImportError: MLflow, or the driver of a database, is missing.
        sqlalchemy.exc.ArgumentError: `uri` is no address.
    """
    for name in OF_EVERY_STORE:
        importlib.import_module(name)
    if not is_server(uri):
        for name in OF_DATABASES:
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
        from sqlalchemy.engine import make_url

        make_url(uri).get_dialect().import_dbapi()


def create_database(target: TrackingTarget) -> None:
    """Create the SQLite file of `target` if there is none, for which MLflow imports its migrations."""
    path = sqlite_path(target.uri)
    if path is not None and not path.exists():
        from pipeline.tracking.store import open_store

        open_store(target.uri, target.experiment)
