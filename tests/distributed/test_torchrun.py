"""What torchrun tells a process may be left over in a shell: it is checked, and a wait says what it is for, and ends."""

import signal
import socket
import sqlite3
import time

import pytest

from pipeline import train
from pipeline.distributed import torchrun
from pipeline.errors import RunError
from tests.ports import free_ports

LEFT_OVER = "If torchrun didn't start this: unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT."
PLACE = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
# A run in a shell with these variables; it says sooner than usual that it waits.
RUN = """
import os, sys
os.environ.update({variables})
from pipeline import train
from pipeline.command import run_command
from pipeline.distributed import torchrun
torchrun.QUIET_SECONDS = 0.2
sys.argv[1:] = ["tracking.checkpoints=none"]
run_command(train.main)
"""


@pytest.fixture
def place(monkeypatch):
    """Set the variables as torchrun does, some of them otherwise, or not at all: `place(RANK="1", MASTER_ADDR=None)`."""

    def set_to(**changed):
        for name, value in (PLACE | {"MASTER_PORT": str(free_ports(1)[0])} | changed).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return set_to


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("RANK", "x", "a whole number from 0 to 1"),
        ("RANK", "2", "a whole number from 0 to 1"),
        ("RANK", "-1", "a whole number from 0 to 1"),
        ("RANK", "", "a whole number from 0 to 1"),
        ("WORLD_SIZE", "", "a whole number from 1 up"),
        ("WORLD_SIZE", "0", "a whole number from 1 up"),
        ("WORLD_SIZE", "²", "a whole number from 1 up"),
        ("MASTER_PORT", "abc", "a whole number from 1 to 65535"),
        ("MASTER_PORT", "99999", "a whole number from 1 to 65535"),
    ],
)
def test_a_value_that_no_launcher_sets_is_refused(place, call_command, tmp_path, name, value, allowed):
    place(**{name: value})
    done = call_command(train.main)
    assert (done.code, done.out, done.err) == (2, "", f"{name}={value}: it must be {allowed}.\n{LEFT_OVER}\n")
    assert list(tmp_path.iterdir()) == []


def test_an_address_without_a_name_is_refused(place, call_command):
    place(MASTER_ADDR=" ")
    done = call_command(train.main)
    assert (done.code, done.err) == (2, f"MASTER_ADDR= : it must name a machine.\n{LEFT_OVER}\n")


@pytest.mark.parametrize("changed", [{"MASTER_PORT": None}, {"RANK": None}, {"WORLD_SIZE": "1"}])
def test_a_part_of_the_variables_or_a_world_of_one_is_a_single_process(place, changed):
    place(**changed)
    assert torchrun.torchrun_rank() is None


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["batch=0"], "batch=0: a number of examples"), (["-m", "seed=0,1"], f"and -m asks for a sweep. {LEFT_OVER}")],
)
def test_a_refusal_is_said_by_any_rank_that_nobody_ends(place, call_command, monkeypatch, rank, arguments, says):
    monkeypatch.setattr("pipeline.run.worker.REFUSAL_SECONDS", 0.1)
    place(RANK=rank)
    done = call_command(train.main, *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err


@pytest.mark.parametrize(
    ("rank", "number", "code"),
    [
        pytest.param("0", signal.SIGINT, 130, marks=pytest.mark.long),
        ("0", signal.SIGTERM, 143),
        ("1", signal.SIGTERM, 143),
    ],
)
def test_a_run_that_waits_for_nobody_says_so_and_ends_on_a_signal(start_python, tmp_path, rank, number, code):
    (port,) = free_ports(1)
    variables = PLACE | {"RANK": rank, "MASTER_PORT": str(port)}
    process = start_python("-c", RUN.format(variables=variables))
    if rank == "0":
        assert process.stderr.readline().startswith("batch 64: LR 0.1")
    said = process.stderr.readline()
    assert said == f"Worker {rank} of 2 waits for the others at 127.0.0.1:{port}, up to 600 s. {LEFT_OVER}\n"
    time.sleep(0.2)  # a signal that interrupts Python's write of that line has it written again
    process.send_signal(number)
    sent = time.monotonic()
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - sent < 8, "most of it is MLflow's"
    assert (process.returncode, error) == (code, "Interrupted.\n" if number == signal.SIGINT else "")
    if rank == "0":
        database = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")
        assert database.execute("SELECT status FROM runs").fetchall() == [("KILLED",)]
        database.close()


def test_a_port_that_another_program_has_is_named(place, capfd):
    with socket.create_server(("", 0)) as server:
        port = str(server.getsockname()[1])
        place(MASTER_PORT=port)
        with (
            pytest.raises(RunError, match=rf"(?s)The workers can't meet: .*{port}.*\n{LEFT_OVER}"),
            torchrun.process_group_of_torchrun(0, 2),
        ):
            pytest.fail("they have met")


def test_a_wait_ends_after_its_time(place, monkeypatch, capfd):
    place(RANK="1")
    monkeypatch.setattr(torchrun, "START_SECONDS", 0.5)
    with pytest.raises(RunError, match=LEFT_OVER), torchrun.process_group_of_torchrun(1, 2):
        pytest.fail("they have met")
