"""How the processes of a run meet and part: on loopback alone, and never waiting for one that is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.config import resolve
from pipeline.distributed import peers
from pipeline.distributed.process_group import LoopbackStore
from pipeline.engine import World
from pipeline.errors import RunError
from pipeline.run import worker

# Stands for `python -m pipeline.run.worker`: says that it is ready, and then does what the test wants.
STAND_IN = """
import json, os, sys, time
import torch, torch.distributed as dist
from pipeline.distributed.process_group import group, use_loopback
asked = json.loads(sys.stdin.readline())
use_loopback()
store = dist.TCPStore("127.0.0.1", asked["port"], is_master=False)
store.set(f"ready {asked['rank']}", "")
%s
"""
HELPS = """
with group(store, asked["rank"], asked["count"]):
    dist.all_reduce(torch.ones(1))
os._exit(0)
"""
# The connections live on in another process, as they may where a data loader has been forked; nothing is noticed.
DIES_UNNOTICED = """
with group(store, asked["rank"], asked["count"]):
    dist.all_reduce(torch.ones(1))
    if os.fork() == 0:
        time.sleep(8)
    os._exit(7)
"""


@pytest.fixture
def config(composed):
    return resolve(composed("runtime.workers=2"))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Have the first worker start a stand-in that does what it is given."""

    def use(what):
        (tmp_path / "stand_in.py").write_text(STAND_IN % what)
        start = subprocess.Popen
        monkeypatch.setattr(
            peers.subprocess,
            "Popen",
            lambda command, **more: start([sys.executable, str(tmp_path / "stand_in.py")], **more),
        )

    return use


def listening(pid="self"):
    """The addresses, as the kernel writes them, at which a process takes connections."""
    own = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.add(fields[1])
    return found


def all_reduced():
    import torch
    import torch.distributed as dist

    ones = torch.ones(1)
    dist.all_reduce(ones)
    return ones.item()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables")
def test_a_store_is_reached_over_loopback_alone():
    before = listening()
    store = LoopbackStore()
    assert listening() - before == {f"0100007F:{store.port:04X}"}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables")
def test_workers_meet_on_loopback_alone(stand_in, config):
    stand_in(HELPS)
    before = listening()
    with worker.gathered(config, World(0, 2), in_sweep=False):
        opened = listening() - before
        assert all_reduced() == 2
    assert len(opened) >= 2, "the store, and what gloo opens"
    assert {address.partition(":")[0] for address in opened} == {"0100007F"}


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("os._exit(3)", r"Worker 1 of 2 failed \(exit code 3\)"),
        (f"os.kill(os.getpid(), {signal.SIGKILL:d})", r"Worker 1 of 2 was killed \(SIGKILL\)"),
    ],
)
def test_a_worker_that_dies_before_they_have_met_is_noticed_and_the_next_run_can_meet(stand_in, ends, said, config, capfd):
    stand_in(ends)
    started = time.monotonic()
    with pytest.raises(RunError, match=said), worker.gathered(config, World(0, 2), in_sweep=False):
        pytest.fail("they have met")
    assert time.monotonic() - started < 15, "most of it is the import of torch"
    assert not [thread for thread in threading.enumerate() if thread.name == "meeting workers"], "none waits on"
    assert capfd.readouterr().err == ""
    stand_in(HELPS)
    with worker.gathered(config, World(0, 2), in_sweep=False):
        assert all_reduced() == 2


def wait_for_one_that_is_gone(config, last_words):
    with worker.gathered(config, World(0, 2), in_sweep=False, last_words=last_words):
        assert all_reduced() == 2
        all_reduced()


def test_where_the_main_thread_waits_on_the_run_is_closed_and_the_process_ended(stand_in, config, monkeypatch):
    stand_in(DIES_UNNOTICED)
    monkeypatch.setattr(peers, "NOTICE_SECONDS", 1.0)
    done = []
    monkeypatch.setattr(peers.os, "_exit", lambda code: done.append((code, time.monotonic())))
    with pytest.raises(RunError, match=r"failed \(exit code 7\)"):
        wait_for_one_that_is_gone(config, done.append)
    said, (code, ended) = done
    assert said.startswith("Worker 1 of 2 failed (exit code 7)")
    assert code == 1
    assert time.monotonic() - ended > 3, "by itself it was noticed only when the connections were closed"
