"""Checkpoints are there whole or not at all."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from pipeline.engine import Checkpoints, Evaluation
from pipeline.engine.checkpoint import save_atomically


def evaluations(*losses):
    return [Evaluation(i, 10 * i, {"val/loss": loss}) for i, loss in enumerate(losses, start=1)]


@pytest.fixture
def trained():
    model = nn.Linear(3, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("mode", "files"),
    [("best", ["best.pt"]), ("last", ["last.pt"]), ("both", ["best.pt", "last.pt"]), ("none", [])],
)
def test_each_mode_keeps_its_files(tmp_path, trained, mode, files):
    checkpoints = Checkpoints(tmp_path, mode, "val/loss")
    for evaluation in evaluations(3.0, 1.0, 2.0):
        checkpoints.update(evaluation, *trained)
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    epochs = {name: torch.load(tmp_path / name, weights_only=True)["epoch"] for name in files}
    assert epochs == {name: {"best.pt": 2, "last.pt": 3}[name] for name in files}


def test_a_checkpoint_restores_model_and_optimizer(tmp_path, trained):
    model, optimizer = trained
    Checkpoints(tmp_path, "last", "val/loss").update(evaluations(1.0)[0], model, optimizer)
    loaded = torch.load(tmp_path / "last.pt", weights_only=True)
    other = nn.Linear(3, 2)
    other.load_state_dict(loaded["model"])
    assert torch.equal(other.weight, model.weight)
    assert loaded["optimizer"]["param_groups"][0]["lr"] == 0.1
    assert loaded["metrics"] == {"val/loss": 1.0}


def test_a_kill_in_the_middle_of_writing_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "last.pt"
    save_atomically(path, {"number": 0, "data": torch.zeros(1)})
    program = (
        "import sys, torch, pathlib; from pipeline.engine.checkpoint import save_atomically\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    save_atomically(pathlib.Path(sys.argv[1]), {'number': number, 'data': torch.full((2_000_000,), number)})\n"
        "    print(number, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(3):
        writer.stdout.readline()
    time.sleep(0.013)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    loaded = torch.load(path, weights_only=True)
    assert loaded["number"] >= 3
    assert torch.equal(loaded["data"], torch.full((2_000_000,), loaded["number"]))
