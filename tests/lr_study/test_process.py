"""How a process describes itself."""

import sys

from lr_study.process import command_line


def test_the_command_is_quoted_for_a_shell_and_has_no_password(monkeypatch):
    address = "tracking.uri=http://me:hunter2@mlflow.example"
    monkeypatch.setattr(sys, "orig_argv", ["/venv/bin/python3", "-m", "pipeline.train", "-m", "seed=[0, 1]", address])
    assert command_line() == ("python -m pipeline.train -m 'seed=[0, 1]' 'tracking.uri=http://me:***@mlflow.example'")
