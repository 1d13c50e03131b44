"""Import MLflow, with what it would import later when it opens a store."""

import importlib

from pipeline.tracking.target import is_server

# Of a database: 0.6 s.
OF_DATABASES = ("mlflow.store.tracking.sqlalchemy_workspace_store", "alembic.command")


def load_mlflow(uri: str) -> None:
    """Import all that sending to the store at `uri` needs.

    Raises:
        ImportError: MLflow, or the driver of a database, is missing.
        sqlalchemy.exc.ArgumentError: `uri` is no address.
    """
    importlib.import_module("pipeline.tracking.spool.uploader")
    if not is_server(uri):
        for name in OF_DATABASES:
            importlib.import_module(name)
        from sqlalchemy.engine import make_url

        make_url(uri).get_dialect().import_dbapi()
