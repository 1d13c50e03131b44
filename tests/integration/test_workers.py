"""Runs of several workers, by the commands: one run in MLflow, the numbers of one process, no orphans."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from mlflow import MlflowClient

from tests.conftest import user_environment

TRAIN = ("-m", "pipeline.train", "budget.epochs=3", "seed=4", "tracking.checkpoints=none")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", *TRAIN)


def tracked(folder):
    """Return the runs in `folder`, newest first, each with its metrics' histories."""
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("lr-batch").experiment_id])
    return [(run, {key: history(client, run, key) for key in run.data.metrics}) for run in runs]


def history(client, run, key):
    return [metric.value for metric in client.get_metric_history(run.info.run_id, key)]


def test_two_workers_are_one_run_with_the_numbers_of_one(run_python, tmp_path):
    for more in ((), ("runtime.workers=2",)):
        done = run_python(*TRAIN, *more)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    (two, ours), (one, theirs) = tracked(tmp_path)
    assert (one.data.params["runtime.workers"], two.data.params["runtime.workers"]) == ("1", "2")
    for key in ("train/loss", "train/error", "val/loss", "val/error", "test/loss", "grad_norm", "optimizer_steps"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4), key
    assert {"noise_scale_accumulated/trace"} <= ours.keys() - theirs.keys()


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("runtime.workers=0", "runtime.workers=0: it must be 1 or more."),
        ("batch=2 runtime.workers=3", "a batch of 2 has no example for each"),
        ("runtime.precision=fp8", "runtime.precision=fp8: no such choice."),
        ("runtime.memory_format=rows", "runtime.memory_format=rows: no such choice."),
        ("runtime=gpu runtime.device=cuda:99", "runtime.device=cuda:99: not usable here"),
    ],
)
def test_a_request_that_workers_cannot_share_is_refused(run_python, tmp_path, request_, said):
    done = run_python("-m", "pipeline.train", *request_.split())
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def started(*command, folder):
    """Start a run and return its process after the third evaluation."""
    process = subprocess.Popen(
        [sys.executable, *command, "budget.epochs=200"],
        cwd=folder,
        env=user_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while not (line := process.stdout.readline()).startswith("epoch   3"):
        assert line, process.wait()
    return process


def workers_of(process):
    """Return the workers above rank 0 among a process and its children."""
    found = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return [p for p in found if "--multiprocessing-fork" in p.cmdline() or p.environ().get("RANK") == "1"]


def gone(processes):
    """Return whether all `processes` end within 10 s."""
    deadline = time.monotonic() + 10
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.long
@pytest.mark.parametrize("command", [(*TRAIN, "runtime.workers=2"), TORCHRUN], ids=["own", "torchrun"])
def test_a_worker_that_dies_ends_the_others_and_the_run_can_be_resumed(tmp_path, command):
    command = (*command, "resume=auto", "tracking.checkpoints=last")
    process = started(*command, folder=tmp_path)
    (other,) = workers_of(process)
    os.kill(other.pid, signal.SIGKILL)
    killed = time.monotonic()
    said = process.communicate(timeout=60)[0]
    assert time.monotonic() - killed < 15
    assert process.returncode == 1
    assert ("Worker 1 of 2 was killed (SIGKILL)" if "runtime.workers=2" in command else "Another worker ended") in said
    assert gone([other])
    ((run, _),) = tracked(tmp_path)
    assert (run.info.status, run.data.tags["status"]) == ("FAILED", "failed")
    again = [*command, "budget.epochs=200"]
    done = subprocess.run(
        [sys.executable, *again], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Resuming a run that was cut off" in done.stderr
    ((run, metrics),) = tracked(tmp_path)
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "complete")
    assert len(metrics["val/loss"]) == 200
    assert list((tmp_path / "mlruns" / "spool").iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("command", [(*TRAIN, "runtime.workers=2"), TORCHRUN], ids=["own", "torchrun"])
def test_a_run_whose_workers_are_all_told_to_end_is_interrupted_and_not_failed(tmp_path, command):
    process = started(*command, folder=tmp_path)
    others = workers_of(process)
    if command is not TORCHRUN:  # torchrun passes the signal on, as a batch system sends it to all
        others[0].terminate()
    process.terminate()
    said = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "ended before the run did" not in said
    assert gone(others)
    ((run, _),) = tracked(tmp_path)
    assert (run.info.status, run.data.tags["status"]) == ("KILLED", "interrupted"), said


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", [(*TRAIN, "runtime.workers=2"), TORCHRUN], ids=["own", "torchrun"])
def test_a_signal_ends_a_run_whose_other_worker_is_stopped(tmp_path, command, number, code):
    process = started(*command, folder=tmp_path)
    (other,) = workers_of(process)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    first = next(p for p in family if p.environ().get("RANK") == "0") if command is TORCHRUN else family[0]
    other.suspend()
    time.sleep(1)  # rank 0 waits for it in the next step
    first.send_signal(number)
    sent = time.monotonic()
    said = process.communicate(timeout=60)[0]
    assert time.monotonic() - sent < 15 + (command is TORCHRUN) * 35, "torchrun waits 30 s for the stopped worker"
    if command is TORCHRUN:
        assert f"exitcode  : {code}" in said
    else:
        assert process.returncode == code
    assert gone([first, other])
    ((run, _),) = tracked(tmp_path)
    assert (run.info.status, run.data.tags["status"]) == ("KILLED", "interrupted")


@pytest.mark.long
def test_ctrl_c_interrupts_the_run_and_no_worker_prints_a_traceback(tmp_path):
    process = started(*TRAIN, "runtime.workers=2", folder=tmp_path)
    others = workers_of(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 130
    assert [line for line in lines if not line.startswith("epoch")] == ["Interrupted."]
    assert gone(others)
    ((run, _),) = tracked(tmp_path)
    assert (run.info.status, run.data.tags["status"]) == ("KILLED", "interrupted")


@pytest.mark.long
def test_no_worker_outlives_rank_0(tmp_path):
    process = started(*TRAIN, "runtime.workers=3", folder=tmp_path)
    others = workers_of(process)
    assert len(others) == 2
    process.kill()
    process.communicate()
    assert gone(others)


@pytest.mark.long
def test_a_worker_that_fails_says_so_and_ends_the_run(run_python, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import multiprocessing, torch\n"
        "class Failing(torch.nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        if multiprocessing.parent_process() and self.training and torch.is_grad_enabled():\n"
        "            raise MemoryError('none left')\n"
        "        return super().forward(images)\n"
        "def make():\n"
        "    return Failing(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    request = (*TRAIN, "model=custom", "model._target_=mine.make", "runtime.workers=2")
    done = run_python(*request, allow={"traceback": "the model's own error"})
    assert done.returncode == 1
    assert "MemoryError: none left" in done.stderr
    assert "Worker 1 of 2 failed (exit code 1)" in done.stderr
    ((run, _),) = tracked(tmp_path)
    assert run.data.tags["status"] == "failed"


@pytest.mark.long
def test_torchrun_gives_the_same_run(run_python, tmp_path):
    for command in (TRAIN, TORCHRUN):
        done = run_python(*command)
        assert done.returncode == 0, done.stderr
    (two, ours), (_, theirs) = tracked(tmp_path)
    assert two.data.params["runtime.workers"] == "2"
    for key in ("train/loss", "val/loss", "test/loss"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4), key
    refused = run_python(*TORCHRUN, "seed=-1", allow={"traceback": "torchrun's own"})
    assert refused.returncode == 1, "torchrun's own code"
    assert refused.stderr.count("seed=-1: it must be a whole number from 0 up") == 1
    refused = run_python(*TORCHRUN, "runtime.workers=3", allow={"traceback": "torchrun's own"})
    assert "runtime.workers=3, and torchrun started 2." in refused.stderr
    sweep = (*TORCHRUN[:3], "-m", "pipeline.train", "-m", "seed=0,1")
    refused = run_python(*sweep, allow={"traceback": "torchrun's own"})
    assert "torchrun" in refused.stderr
    assert "runtime.workers=2" in refused.stderr
    assert len(tracked(tmp_path)) == 2


@pytest.mark.long
def test_a_sweeps_trials_can_be_several_workers_each(run_python, tmp_path):
    done = run_python(
        *("-m", "pipeline.train", "-m", "batch=32,64", "seed=0,1", "runtime.workers=2", "budget.epochs=2"),
        *("hydra.sweeper.n_trials=4", "report.confirm.looks=[]"),
    )
    assert done.returncode == 0, done.stderr
    trials = [run for run, _ in tracked(tmp_path) if run.data.tags["pipeline"] == "trial"]
    assert len(trials) == 8
    assert {run.data.params["runtime.workers"] for run in trials} == {"2"}
    assert {run.data.params["runtime.threads"] for run in trials} == {"1"}
    assert {run.data.tags["status"] for run in trials} <= {"complete", "diverged", "stalled"}


@pytest.mark.long
def test_a_run_of_two_workers_is_reproduced_bit_for_bit(run_python, tmp_path):
    done = run_python(*TRAIN, "runtime.workers=2")
    assert done.returncode == 0, done.stderr
    ((run, _),) = tracked(tmp_path)
    done = run_python("-m", "pipeline.reproduce", run.info.run_id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal bit for bit" in done.stdout
    assert [run.data.params["runtime.workers"] for run, _ in tracked(tmp_path)] == ["2", "2"]
