"""The check before a sweep, where its worker processes die."""

import contextlib
import os
import signal
from types import SimpleNamespace

import psutil
import pytest

from lr_study import Outcome, Progress
from lr_study.worker_processes import TARGET, dismiss_workers
from pipeline import config
from pipeline.errors import RunError
from pipeline.sweep import hooks, preflight
from tests.conftest import SWEEP
from tests.lr_study.app import wait_until

LAUNCHER = {"_target_": TARGET, "n_jobs": 2}


def dies(configs):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_in_the_check_is_one_message(composed, monkeypatch):
    monkeypatch.setattr(preflight, "build_and_import", dies)
    monkeypatch.setattr(preflight, "_load_mlflow", lambda uri: None)
    with pytest.raises(RunError, match="worker processes can't start, or died"):
        preflight.check_buildable([config.resolve(composed())] * 2, LAUNCHER)
    dismiss_workers(at_once=True)


@pytest.mark.parametrize(
    ("ends_with", "status"), [(None, "complete"), (SystemExit(143), "interrupted"), (ValueError(), "failed")]
)
def test_mlflow_says_how_the_report_ended(monkeypatch, ends_with, status):
    def write(*given):
        if ends_with is not None:
            raise ends_with

    ended = []
    sweep = hooks.SweepHooks()
    sweep._parent = SimpleNamespace(end=ended.append)
    monkeypatch.setattr(sweep, "_store_with_all_records", lambda: None)
    monkeypatch.setattr(sweep, "_report", write)
    with contextlib.suppress(SystemExit, ValueError):
        sweep.ended(Outcome("complete", Progress(4, 0, 4)))
    assert ended == [status]


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "Interrupted.\n"), (signal.SIGHUP, "")])
def test_a_signal_to_all_processes_in_the_check_ends_them_with_a_line_at_most(start_python, number, said):
    driver = start_python(*SWEEP, fresh=True, new_session=True)
    wait_until(lambda: len(psutil.Process(driver.pid).children()) >= 2, "the workers' start", seconds=60)
    os.killpg(driver.pid, number)  # as a terminal does
    assert driver.communicate(timeout=60) == ("", said)
    assert driver.returncode == 128 + number


@pytest.mark.long
def test_the_workers_of_a_killed_driver_end_with_it(start_python, tmp_path):
    driver = start_python(*SWEEP, "budget.epochs=5000", fresh=True)
    wait_until(lambda: (tmp_path / "mlruns" / "spool").is_dir(), "the sweep's start", seconds=120)
    workers = [p for p in psutil.Process(driver.pid).children() if any("LokyProcess" in word for word in p.cmdline())]
    assert len(workers) >= 2
    driver.kill()
    driver.wait()
    wait_until(
        lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in workers), "their end", seconds=30
    )
