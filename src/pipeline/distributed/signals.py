"""Signals that arrive while the main thread is blocked inside a library, where Python's signal handlers don't run.

A collective operation of torch's waits for as long as another worker is stopped, for one.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

# How long the main thread may take to react to a signal, and once more if what it waits for can be broken off. torchrun
# sends SIGKILL after 30 s.
REACTION_SECONDS = 5.0
# By `pipeline.command`.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@contextlib.contextmanager
def heard_signals(
    on_abort: Callable[[BaseException], None],
    on_signal: Callable[[int], None] = lambda number: None,
    break_off: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """End this process if the main thread doesn't leave the block soon after one of these signals.

    Python writes the number of each signal into a socket, whatever the main thread does, and a thread reads it there.
    This thread calls the functions. Outside of the main thread no signal can be heard, and nothing is done.

    Args:
        on_abort: called with KeyboardInterrupt or SystemExit before the process is ended.
        on_signal: called with the number of the signal at once.
        break_off: called if the main thread hasn't reacted; returns whether it may have ended what that waits for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    is_over = threading.Event()

    def listen() -> None:
        while number := reader.recv(1):
            if number[0] not in EXIT_CODES:
                continue
            # In a thread of its own, since it may be blocked, too.
            threading.Thread(target=on_signal, args=[number[0]], daemon=True).start()
            if not is_over.wait(REACTION_SECONDS) and not (break_off() and is_over.wait(REACTION_SECONDS)):
                _abort(number[0], on_abort)

    thread = threading.Thread(target=listen, name="hearing signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(before)
        writer.close()
        thread.join()
        reader.close()


def _abort(number: int, on_abort: Callable[[BaseException], None]) -> NoReturn:
    code = EXIT_CODES[signal.Signals(number)]
    try:
        on_abort(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(code))
    finally:
        if number == signal.SIGINT:
            print("Interrupted.", file=sys.stderr)
        exit_at_once(code)


def exit_at_once(code: int) -> NoReturn:
    """End this process without Python's own shutdown, during which threads of torch's may abort it (SIGABRT)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
