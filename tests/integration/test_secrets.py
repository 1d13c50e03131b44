"""A password in an address is shown nowhere: not in files, not in what is said, not in MLflow."""

import subprocess

import pytest

from tests.conftest import REPOSITORY

SECRET = "hunter2"


def nowhere(folder, *said):
    assert not any(SECRET in text for text in said), said
    for file in folder.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("tracking.uri=http://me:hunter2@127.0.0.1:1",), {}),
        pytest.param(
            *((), {"MLFLOW_TRACKING_URI": "http://me:hunter2@127.0.0.1:1", "MLFLOW_TRACKING_PASSWORD": SECRET}),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *(("-m", "seed=0,1", "hydra.sweeper.n_trials=2"), {"MLFLOW_TRACKING_URI": "http://me:hunter2@127.0.0.1:1"}),
            marks=pytest.mark.long,
        ),
    ],
    ids=["argument", "environment", "sweep"],
)
def test_a_password_of_the_tracking_server_is_shown_nowhere(run_python, tmp_path, arguments, environment):
    program = (
        "import os, sys, runpy; os.environ.update(dict(pair.split('=', 1) for pair in sys.argv.pop(1).split(' ') if pair))\n"
        "runpy.run_module('pipeline.train', run_name='__main__', alter_sys=True)\n"
    )
    pairs = " ".join(f"{key}={value}" for key, value in environment.items())
    done = run_python("-c", program, pairs, *arguments, "budget.epochs=1")
    assert done.returncode == 0, done.stderr
    assert "can't be" in done.stderr
    assert list(tmp_path.glob("mlruns/spool/*.jsonl"))
    nowhere(tmp_path, done.stdout, done.stderr)
    done = run_python("-m", "pipeline.sync", "--tracking-uri", f"http://me:{SECRET}@127.0.0.1:1")
    assert done.returncode == 1
    nowhere(tmp_path, done.stdout, done.stderr)


def test_help_does_not_show_the_environments_password(run_python):
    program = """
import contextlib, importlib, os
os.environ["MLFLOW_TRACKING_URI"] = "http://me:hunter2@h"
for command in ("report", "advise", "reproduce", "sync"):
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"pipeline.{command}").main(["--help"])
"""
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == 4
    assert SECRET not in done.stdout + done.stderr


def test_make_ui_listens_on_loopback_alone():
    said = subprocess.run(["make", "--dry-run", "ui"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    (command,) = [line for line in said.stdout.splitlines() if "mlflow ui" in line]
    assert command.split()[command.split().index("--host") + 1] == "127.0.0.1"
    assert command.count("--host") == 1
