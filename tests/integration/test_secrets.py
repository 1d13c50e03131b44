"""A password in an address is shown nowhere: not in files, not in what is said, not in MLflow."""

import signal
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

from pipeline.analysis.page.page import render_page
from pipeline.analysis.stats.answer import analyse
from pipeline.analysis.stats.settings import AnalysisSettings
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.store import Store
from pipeline.tracking.target import TrackingTarget
from tests import outputs
from tests.analysis.simulate import study
from tests.conftest import REPOSITORY
from tests.lr_study.app import wait_until

# In no file of this repository, whose difference to its commit is logged, too.
SECRET = "hunter2"[::-1]


def nowhere(folder, *said):
    assert not any(SECRET in text for text in said), said
    for file in folder.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ((f"tracking.uri=http://me:{SECRET}@127.0.0.1:1",), {}),
        pytest.param(
            *((), {"MLFLOW_TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:1", "MLFLOW_TRACKING_PASSWORD": SECRET}),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *(
                ("-m", "seed=0,1", "hydra.sweeper.n_trials=2"),
                {"MLFLOW_TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:1"},
            ),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *(("-m", "batch=64", "hydra.sweeper.n_trials=1", f"tracking.uri=http://me:{SECRET}@127.0.0.1:1"), {}),
            marks=pytest.mark.long,
        ),
    ],
    ids=["argument", "environment", "sweep", "sweep's argument"],
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
    done = run_python("-m", "pipeline.sync", "--tracking-uri", f"http://me:{SECRET}@127.0.0.1:1", fresh=True)
    assert done.returncode == 1
    nowhere(tmp_path, done.stdout, done.stderr)


@pytest.mark.long
def test_a_sweep_that_is_terminated_says_how_to_go_on_without_the_password(start_python, tmp_path):
    request = ("-m", "batch=64", "hydra.launcher.n_jobs=2", "budget.epochs=500")
    address = f"tracking.uri=http://me:{SECRET}a@b@127.0.0.1:1"
    driver = start_python("-m", "pipeline.train", *request, address, fresh=True)
    # The sweep's, and a trial's.
    wait_until(
        lambda: len(list(tmp_path.glob("mlruns/spool/*.jsonl"))) >= 2 or driver.poll() is not None, "two records"
    )
    driver.send_signal(signal.SIGTERM)
    printed, said = driver.communicate(timeout=60)
    outputs.check(printed, said)
    assert driver.returncode == 143
    assert "Run the same command again" in said
    nowhere(tmp_path, said)


def test_the_report_links_to_the_server_without_user_and_password():
    store = Store(None, "7", f"https://me:a/{SECRET}@mlflow.example:5000/base/?token={SECRET}")
    assert store.run_url("abc") == "https://mlflow.example:5000/base/#/experiments/7/runs/abc"
    rng = np.random.default_rng(0)
    found = [
        run for size in (32, 64, 128) for run in study(size, 0.1 * size / 64, rng, shape="steep right", noise=0.01)
    ]
    runs = [replace(run, run_id=f"{number:032x}") for number, run in enumerate(found)]
    page = render_page(analyse(runs, AnalysisSettings()), runs, "title", store.run_url)
    assert "https://mlflow.example:5000/base/#/experiments/7/runs/" in page
    assert SECRET not in page
    assert "me:***" not in page


def test_what_mlflow_refuses_is_said_and_kept_without_the_password(tmp_path, monkeypatch, caplog):
    def refusing(self, *arguments, **options):
        raise MlflowException(f"http://me:{SECRET}@h/api refuses it", error_code=INVALID_PARAMETER_VALUE)

    monkeypatch.setattr("mlflow.MlflowClient.log_inputs", refusing)
    with TrackedRun(TrackingTarget(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "refused"), "refused", {}) as run:
        run.log_dataset("digits", "0" * 32, "sklearn", 1)
    assert "http://me:***@h/api refuses it" in caplog.text
    assert SECRET not in caplog.text


def test_a_command_line_is_tracked_without_the_passwords_in_it(tmp_path, monkeypatch):
    address = f"postgresql+psycopg://me:{SECRET} and more@127.0.0.1:1/db?sslpassword={SECRET}"
    monkeypatch.setattr("sys.argv", ["train", f"tracking.uri={address}", f"hydra.sweeper.storage='{address}'"])
    target = TrackingTarget(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "command")
    with TrackedRun(target, "command", {"a": address}) as run:
        run.log_params({"tracking.uri": address, "list": [address]})
        run.log_text(f"uri: {address}", "config/config.yaml")
    assert run.is_sent
    nowhere(tmp_path)


def test_help_does_not_show_the_environments_password(run_python):
    program = """
import contextlib, importlib, os
os.environ["MLFLOW_TRACKING_URI"] = "http://me:" + "hunter2"[::-1] + "@h"
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
