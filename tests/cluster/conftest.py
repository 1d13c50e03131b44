"""The servers, started once for all tests here."""

import functools
import shutil

import pytest

from tests.cluster import servers


@pytest.fixture(scope="session", autouse=True)
def _packages():
    missing = [program for program in servers.NEEDED if shutil.which(program) is None]
    assert not missing, f"not installed: {missing}; apt-get install slurm-wlm slurmdbd munge mariadb-server postgresql"


@pytest.fixture
def run_python(run_python):
    """The same, with time for queues and for a machine that runs all these servers."""
    return functools.partial(run_python, timeout=600, fresh=True)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    with servers.started(servers.postgresql, tmp_path_factory.mktemp("servers")) as url:
        yield url


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    with servers.started(servers.slurm, tmp_path_factory.mktemp("servers")) as environment:
        yield environment
