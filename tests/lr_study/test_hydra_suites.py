"""Hydra's own suites for launchers and sweepers, unmodified: without an interval this is an ordinary grid sweeper."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.singleton import Singleton
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra.version import VersionBase

# The suites' apps give no `version_base`, and Hydra warns of it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:\\s*Future Hydra versions will no longer change working directory:UserWarning"),
]


@pytest.fixture(autouse=True)
def _as_in_a_new_process():
    """Forget the `version_base` that another test has set: the suites need Hydra's default."""
    before = Singleton.get_state()
    Singleton._instances.pop(VersionBase, None)
    yield
    Singleton.set_state(before)


@pytest.fixture(autouse=True)
def _programs_as_forks(fork_server, monkeypatch):
    """Run the suites' programs as forks of one process that has imported Hydra."""

    def check_call(command, env):
        process = fork_server.start(command[1:], Path.cwd(), env)
        printed = process.communicate(timeout=240)
        assert process.returncode == 0, printed

    monkeypatch.setattr("hydra.test_utils.test_utils.subprocess", SimpleNamespace(check_call=check_call))


SWEEPER = "hydra/sweeper=lr_study"


@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", [SWEEPER])])
class TestWithTheBasicLauncher(LauncherTestSuite):
    pass


@pytest.mark.parametrize(("launcher_name", "overrides"), [("joblib", [SWEEPER, "hydra.launcher.n_jobs=2"])])
class TestWithJoblib(LauncherTestSuite):
    pass


@pytest.mark.parametrize(("launcher_name", "overrides"), [("processes", [SWEEPER, "hydra.launcher.n_jobs=2"])])
class TestWithProcesses(LauncherTestSuite):
    pass


@pytest.mark.parametrize(("launcher_name", "overrides"), [("basic", [SWEEPER, "hydra.sweeper.max_batch_size=2"])])
class TestBatches(BatchedSweeperTestSuite):
    pass


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [
        ({}, ["-m", SWEEPER, "hydra/launcher=basic"]),
        ({}, ["-m", SWEEPER, "hydra/launcher=processes", "hydra.launcher.n_jobs=1"]),
    ],
)
class TestAppsOfTheirOwn(IntegrationTestSuite):
    pass
