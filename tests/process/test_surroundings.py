"""Where a command is started: a folder that hides packages or is gone, odd variables, signals while it imports."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import report, train
from pipeline.errors import RequestError
from pipeline.process import surroundings
from tests import outputs
from tests.conftest import user_environment

ONE_EPOCH = ("-m", "pipeline.train", "batch=128", "budget.epochs=1")


@pytest.mark.parametrize("name", ["torch.py", "mlflow.py", "numpy/__init__.py"])
def test_a_file_that_hides_a_package_is_named_before_anything_is_written(run_python, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
    done = run_python(*ONE_EPOCH, fresh=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path / name}: Python takes it for the package" in done.stderr
    assert not (tmp_path / "mlruns").exists()


def test_a_python_without_asserts_is_refused(run_python):
    done = run_python(*ONE_EPOCH, PYTHONOPTIMIZE="1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[1] == "Leave -O out, and unset PYTHONOPTIMIZE."


def test_windows_is_refused_with_the_way_round(monkeypatch):
    monkeypatch.setattr(surroundings.sys, "platform", "win32")
    with pytest.raises(RequestError, match=r"not supported\.\nUse the Windows Subsystem for Linux"):
        surroundings.prepare()


def test_a_folder_that_was_deleted_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    program = 'cd gone; rmdir ../gone; "$0" -m pipeline.sync'
    done = subprocess.run(
        ["bash", "-c", program, sys.executable], cwd=tmp_path, env=user_environment(), capture_output=True, text=True
    )
    outputs.check(done.stdout, done.stderr)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "The working folder has been deleted."


def test_a_folder_that_is_deleted_while_a_command_runs_is_named(call_command, tmp_path, monkeypatch):
    def deleting(config, trial=None):
        shutil.rmtree(tmp_path)
        Path.cwd()

    monkeypatch.setattr(train, "train", deleting)
    done = call_command(train.main)
    tmp_path.mkdir()
    assert done.code == 1
    assert done.err.splitlines()[-1] == "The working folder was deleted while the command ran."


def test_a_backend_for_notebooks_does_not_keep_a_command_from_its_figures(run_python, tmp_path):
    (tmp_path / "runs.csv").write_text("batch,lr,value\n64,0.1,0.3\n64,0.2,0.2\n", encoding="utf-8")
    request = ("-m", "pipeline.report", "--table", "runs.csv", "--figures", "figures")
    done = run_python(*request, MPLBACKEND="module://nowhere.backend_inline")
    assert done.returncode == 0, done.stderr


def test_a_user_without_a_home_gets_one(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setenv("HOME", "")
    surroundings.prepare()
    assert os.path.isdir(os.environ["HOME"])


def test_a_table_is_legible_on_a_narrow_terminal(call_command, tmp_path, monkeypatch):
    rows = [f"{batch},{lr},{abs(lr - 0.1) + 0.1}" for batch in (32, 64) for lr in (0.05, 0.1, 0.2, 0.4)]
    (tmp_path / "runs.csv").write_text("\n".join(["batch,lr,value", *rows]), encoding="utf-8")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    done = call_command(report.main, "--table", str(tmp_path / "runs.csv"))
    assert done.code == 0
    assert "32 *" in done.out


def test_ctrl_c_while_a_command_imports_prints_no_traceback(start_python):
    process = start_python("-X", "importtime", *ONE_EPOCH, fresh=True)
    while not process.stderr.readline().endswith("| pipeline\n"):
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
