"""Imports in a thread, beside the main thread's work: one thread of a process imports at a time.

A module that two threads import at once, by different ways into a circle of modules, can be seen half made. MLflow and
torch are full of circles. So the main thread starts the one import that runs beside it with `begin`, and waits for it
where it has something to import itself.
"""

import threading

_importing = threading.Lock()


def begin() -> None:
    """Reserve the imports for a thread that is about to start; waits for one that imports already."""
    _importing.acquire()


def end() -> None:
    """Say, in that thread, that its imports are done or have failed."""
    _importing.release()


def wait() -> None:
    """Wait until no thread imports."""
    with _importing:
        pass
