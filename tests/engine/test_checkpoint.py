"""Checkpoints: which files each mode writes, atomic writing, and loading without running code."""

import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from pipeline.engine import Checkpoints, Evaluation, load_checkpoint
from pipeline.engine.state import save_atomically


def evaluations(*losses):
    return [Evaluation(i, 10 * i, {"val/loss": loss}) for i, loss in enumerate(losses, start=1)]


def state_after(evaluation, model=None):
    model = model or nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": evaluation.epoch,
        "metrics": evaluation.metrics,
        "evaluations": [],
    }


def update(checkpoints, evaluation, model=None):
    checkpoints.update(evaluation, lambda: state_after(evaluation, model))


@pytest.mark.parametrize(
    ("mode", "files"),
    [("best", ["best.pt"]), ("last", ["last.pt"]), ("both", ["best.pt", "last.pt"]), ("none", [])],
)
def test_each_mode_writes_its_files(tmp_path, mode, files):
    checkpoints = Checkpoints(tmp_path, mode, "val/loss")
    for evaluation in evaluations(3.0, 1.0, 2.0):
        update(checkpoints, evaluation)
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    epochs = {name: torch.load(tmp_path / name, weights_only=True)["epoch"] for name in files}
    assert epochs == {name: {"best.pt": 2, "last.pt": 3}[name] for name in files}


def test_a_checkpoint_restores_model_and_optimizer(tmp_path):
    model = nn.Linear(3, 2)
    update(Checkpoints(tmp_path, "last", "val/loss"), evaluations(1.0)[0], model)
    loaded = load_checkpoint(tmp_path / "last.pt")
    other = nn.Linear(3, 2)
    other.load_state_dict(loaded["model"])
    assert torch.equal(other.weight, model.weight)
    assert loaded["optimizer"]["param_groups"][0]["lr"] == 0.1
    assert loaded["metrics"] == {"val/loss": 1.0}


def test_a_file_that_is_no_checkpoint_gives_none(tmp_path, caplog):
    assert load_checkpoint(tmp_path / "none.pt") is None
    update(Checkpoints(tmp_path, "last", "val/loss"), evaluations(1.0)[0])
    whole = (tmp_path / "last.pt").read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        assert load_checkpoint(tmp_path / "cut.pt") is None
    torch.save({"model": {}}, tmp_path / "other.pt")
    assert load_checkpoint(tmp_path / "other.pt") is None


class Attack:
    def __reduce__(self):
        return print, ("this ran",)


def test_loading_a_checkpoint_runs_no_code(tmp_path, capsys):
    torch.save({"evaluations": [], "model": Attack()}, tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt") is None
    assert "this ran" not in capsys.readouterr().out


def test_a_disk_that_refuses_ends_the_checkpoints_and_not_the_run(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(tmp_path / "file" / "below", "both", "val/loss")
    for evaluation in evaluations(3.0, 1.0):
        update(checkpoints, evaluation)
    assert caplog.text.count("no checkpoint can be written") == 1


def test_a_resumed_run_keeps_the_best_file_of_the_run_before(tmp_path):
    first, second = evaluations(1.0, 2.0)
    update(Checkpoints(tmp_path, "best", "val/loss"), first)
    after = Checkpoints(tmp_path, "best", "val/loss")
    after.resume_from_state({"evaluations": [{"metrics": first.metrics}]})
    update(after, second)
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == 1


def test_a_kill_while_writing_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "last.pt"
    save_atomically(path, {"number": 0, "data": torch.zeros(1)})
    program = (
        "import sys, torch, pathlib; from pipeline.engine.state import save_atomically\n"
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


def test_a_limit_on_the_size_of_files_ends_the_checkpoints_and_not_the_run(tmp_path, caplog):
    """torch raises a RuntimeError over the system's OSError there."""
    kept, allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path, "both", "val/loss")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, allowed))
    try:
        for evaluation in evaluations(3.0, 1.0):
            update(checkpoints, evaluation)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kept, allowed))
        signal.signal(signal.SIGXFSZ, before)
    assert caplog.text.count("no checkpoint can be written") == 1
    assert list(tmp_path.glob("*.pt")) == []
