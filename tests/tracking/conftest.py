"""A database for each test, copied from an empty one, since MLflow takes 1.5 s to create one."""

import shutil

import pytest

from pipeline.tracking.store import open_store
from pipeline.tracking.target import TrackingTarget


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    open_store(f"sqlite:///{folder}/mlflow.db", "nobody's")
    return folder / "mlflow.db"


@pytest.fixture
def make_target(empty_database):
    """Create `FOLDER/mlruns/mlflow.db`, and return its target."""

    def make(folder):
        (folder / "mlruns").mkdir(parents=True)
        shutil.copyfile(empty_database, folder / "mlruns" / "mlflow.db")
        return TrackingTarget(f"sqlite:///{folder}/mlruns/mlflow.db", "tests")

    return make


@pytest.fixture
def own_target(make_target, tmp_path):
    """The target of a database of this test's own."""
    return make_target(tmp_path)
