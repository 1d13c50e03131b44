"""SIGINT and SIGTERM end a process within seconds, also if its main thread is blocked where Python can't reach it."""

import os
import signal
import threading
import time

import pytest

from pipeline.distributed.signals import heard_signals

# Blocks its main thread in C, as a collective operation does that waits for a stopped worker: no signal ends this.
BLOCKED = """
import ctypes, signal, sys
from pipeline.distributed import signals
signals.REACTION_SECONDS = 0.2
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_init(mutex, None)
libc.pthread_mutex_lock(mutex)
def break_off():
    print("broken off", flush=True)
    if "-" in sys.argv:
        libc.pthread_mutex_unlock(mutex)
    return True
def on_abort(error):
    print("closed for", repr(error), flush=True)
try:
    with signals.heard_signals(on_abort, lambda number: print("heard", number, flush=True), break_off):
        print("blocked", flush=True)
        libc.pthread_mutex_lock(mutex)
        while True:
            pass
except BaseException as error:
    print("raised", repr(error))
    sys.exit(7)
"""


@pytest.fixture
def blocked(start_python):
    """Start a blocked process and send it a signal; returns what it printed on stdout and stderr, and its exit code."""

    def run(number, *arguments):
        process = start_python("-c", BLOCKED, *arguments)
        assert process.stdout.readline() == "blocked\n"
        time.sleep(0.3)  # between this line and the block
        process.send_signal(number)
        said, error = process.communicate(timeout=10)
        return said.splitlines(), error, process.returncode

    return run


@pytest.mark.parametrize(
    ("number", "closed", "printed", "code"),
    [(signal.SIGINT, "KeyboardInterrupt()", "Interrupted.\n", 130), (signal.SIGTERM, "SystemExit(143)", "", 143)],
)
def test_a_blocked_process_is_closed_and_ended(blocked, number, closed, printed, code):
    heard = [f"heard {int(number)}", "broken off", f"closed for {closed}"]
    assert blocked(number) == (heard, printed, code)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, "KeyboardInterrupt()"), (signal.SIGTERM, "SystemExit(143)")]
)
def test_where_the_wait_can_be_broken_off_the_main_thread_closes_as_always(blocked, number, raised):
    assert blocked(number, "-") == ([f"heard {int(number)}", "broken off", f"raised {raised}"], "", 7)


def test_a_main_thread_that_reacts_is_left_alone(monkeypatch):
    monkeypatch.setattr("pipeline.distributed.signals.os._exit", lambda code: pytest.fail("ended"))
    heard, before = [], signal.signal(signal.SIGTERM, lambda number, frame: heard.append("by Python"))
    try:
        with heard_signals(lambda error: heard.append(error), on_signal=heard.append):
            os.kill(os.getpid(), signal.SIGTERM)
            while len(heard) < 2:
                pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sorted(map(str, heard)) == [str(int(signal.SIGTERM)), "by Python"]
    assert not [thread for thread in threading.enumerate() if thread.name == "hearing signals"], "none is left"


def test_other_threads_than_the_main_one_do_without():
    done = []

    def work():
        with heard_signals(lambda error: None):
            done.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["worked"]
