"""The workers that rank 0 starts: they meet on loopback alone, and rank 0 never waits for one that is gone."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipeline.config import resolve
from pipeline.distributed import local_workers
from pipeline.distributed.local_workers import process_group_of_worker
from pipeline.distributed.process_group import HOST, LoopbackStore
from pipeline.errors import RunError
from pipeline.run import worker


def all_reduced():
    ones = torch.ones(1)
    dist.all_reduce(ones)
    return ones.item()


# What a worker does in place of its training; run in another process, as the real one is.


def helps(rank, port, config, in_sweep):
    print("printed by a worker")
    with process_group_of_worker(port, rank, 2):
        all_reduced()


def fails_at_once(rank, port, config, in_sweep):
    os._exit(3)


def is_killed_when_ready(rank, port, config, in_sweep):
    dist.TCPStore(HOST, port, is_master=False).set(f"ready {rank}", "")
    os.kill(os.getpid(), signal.SIGKILL)


def dies_unnoticed(rank, port, config, in_sweep):
    """Die, while the connections live on in another process, as in a data loader's."""
    with process_group_of_worker(port, rank, 2):
        all_reduced()
        if os.fork() == 0:
            time.sleep(8)
        os._exit(7)


def stops(rank, port, config, in_sweep):
    """Stop in the middle of the training, as by SIGSTOP."""
    with process_group_of_worker(port, rank, 2):
        all_reduced()
        os.kill(os.getpid(), signal.SIGSTOP)


@pytest.fixture
def config(composed):
    return resolve(composed("runtime.workers=2"))


@pytest.fixture
def stand_in(monkeypatch):
    """Let the worker that rank 0 starts run a given function."""
    return lambda function: monkeypatch.setattr(worker, "_train_share", function)


def listening(pid="self"):
    """The addresses, as the kernel writes them, at which a process takes connections."""
    own = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="utf-8").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.add(fields[1])
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables")
def test_a_store_is_reached_over_loopback_alone():
    before = listening()
    store = LoopbackStore()
    assert listening() - before == {f"0100007F:{store.port:04X}"}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables")
def test_workers_meet_on_loopback_alone(stand_in, config, capfd):
    stand_in(helps)
    before = listening()
    with worker.process_group_of_run(config, in_sweep=False):
        opened = listening() - before
        assert all_reduced() == 2
    assert len(opened) >= 2, "the store, and what gloo opens"
    assert {address.partition(":")[0] for address in opened} == {"0100007F"}
    # torch 2.9 prints that they are connected.
    out, err = ([line for line in text.splitlines() if "[Gloo]" not in line] for text in capfd.readouterr())
    assert (out, err) == ([], ["printed by a worker"])


@pytest.mark.parametrize(
    ("stands_in", "said"),
    [
        (fails_at_once, r"Worker 1 of 2 failed \(exit code 3\)"),
        (is_killed_when_ready, r"Worker 1 of 2 was killed \(SIGKILL\)"),
    ],
)
def test_a_worker_that_dies_before_they_have_met_is_noticed_and_the_next_run_can_meet(
    stand_in, stands_in, said, config, capfd
):
    stand_in(stands_in)
    started = time.monotonic()
    with pytest.raises(RunError, match=said), worker.process_group_of_run(config, in_sweep=False):
        pytest.fail("they have met")
    assert time.monotonic() - started < 15, "most of it is the import of torch"
    assert not [thread for thread in threading.enumerate() if thread.name == "watching workers"], "none is left"
    assert capfd.readouterr().err == ""
    stand_in(helps)
    with worker.process_group_of_run(config, in_sweep=False):
        assert all_reduced() == 2


def wait_for_one_that_is_gone(config, on_abort):
    with worker.process_group_of_run(config, False, on_abort):
        assert all_reduced() == 2
        all_reduced()


@pytest.mark.long
def test_if_the_main_thread_does_not_react_the_run_is_closed_and_the_process_ended(stand_in, config, monkeypatch):
    stand_in(dies_unnoticed)
    monkeypatch.setattr(local_workers, "REACTION_SECONDS", 1.0)
    done = []
    monkeypatch.setattr(local_workers.os, "_exit", lambda code: done.append((code, time.monotonic())))
    with pytest.raises(RunError, match=r"failed \(exit code 7\)"):
        wait_for_one_that_is_gone(config, done.append)
    error, (code, ended) = done
    assert str(error).startswith("Worker 1 of 2 failed (exit code 7)")
    assert code == 1
    assert time.monotonic() - ended > 3, "by itself it was noticed only when the connections were closed"


def test_a_signal_ends_the_wait_for_a_worker_that_is_stopped(stand_in, config, monkeypatch):
    stand_in(stops)
    monkeypatch.setattr("pipeline.distributed.signals.REACTION_SECONDS", 0.5)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    sent = []

    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    def wait():
        with worker.process_group_of_run(config, in_sweep=False):
            assert all_reduced() == 2
            threading.Timer(0.5, send).start()
            all_reduced()

    try:
        with pytest.raises(SystemExit, match="143"):
            wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() - sent[0] < 5
