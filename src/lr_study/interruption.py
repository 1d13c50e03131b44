"""Signals that end a command in order: SIGINT (Ctrl-C), SIGTERM (a batch system) and SIGHUP (a closed terminal).

A signal's handler raises an exception wherever the main thread is. Inside an import or a callback, a library may
swallow that exception or turn it into another error. So the signal is remembered here, and who handles errors asks for
it.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# Windows has no SIGHUP.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_received: int | None = None


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Inside the block, let each of these signals that has Python's own handler raise an exception.

    SIGINT raises KeyboardInterrupt, another one SystemExit with 128 and its number: 143 for SIGTERM.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: handler for number in _SIGNALS if (handler := signal.getsignal(number)) in own}
    if before:
        _received = None
    for number in before:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_if_signalled() -> None:
    """Raise the signal's exception again if a signal came since `ending_on_signals` began."""
    if _received is not None:
        raise _exception_of(_received)


def _end(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    raise _exception_of(number)


def _exception_of(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
