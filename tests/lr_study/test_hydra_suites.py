"""Hydra's own suites for launchers and sweepers, unmodified: without an interval this is a grid sweeper as any."""

import pytest
from hydra.core.singleton import Singleton
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra.version import VersionBase

# The suites' own apps leave `version_base` out, and Hydra says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:\\s*Future Hydra versions will no longer change working directory:UserWarning"),
]


@pytest.fixture(autouse=True)
def _as_in_a_new_process():
    """The suites count on a Hydra that no other test has told a `version_base`."""
    before = Singleton.get_state()
    Singleton._instances.pop(VersionBase, None)
    yield
    Singleton.set_state(before)


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
