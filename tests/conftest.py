"""What all tests share."""

import os

# The tests run side by side, one on each core: threads of their own would only get in each other's way.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from pipeline import config

# A shell without job control starts what it puts in the background deaf to Ctrl-C, and so would be what tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def composed():
    """Compose the project's configuration with overrides: `composed("batch=256")`."""
    config.register()

    def compose_with(*overrides: str):
        with initialize_config_dir(config.conf_dir(), version_base="1.3"):
            return compose("config", list(overrides))

    return compose_with


@pytest.fixture
def run_python(tmp_path):
    """Run `python *arguments` in an empty folder, as a user would, and return the finished process."""

    def run(*arguments: str, folder: Path = tmp_path, timeout: float = 240, **environment: str):
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "HYDRA_"))}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
