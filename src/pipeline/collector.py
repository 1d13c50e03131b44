"""Python's collector of cycles, kept off what lives as long as the process does.

torch, MLflow and what they bring along are 300,000 objects, which the collector looks through again and again while
they are imported, and once more when the interpreter ends: measured, 0.4 of the 2.3 s of these imports, and 0.9 of the
1.1 s between a command's last line and its end.
"""

import atexit
import functools
import gc

# Python's own are 700, 10 and 10: new objects before the youngest are looked through, and how often that comes to pass
# before older ones are.
WHILE_IMPORTING = (50_000, 20, 100)
_as_it_was = gc.get_threshold()


@functools.cache
def collect_seldom() -> None:
    """From here on, look for cycles seldom, and not at all when the process ends."""
    gc.set_threshold(*WHILE_IMPORTING)
    atexit.register(gc.freeze)


@functools.cache
def collect_as_usual() -> None:
    """Before training, whose cycles may hold large tensors: look as often as ever, but not at what is there by now."""
    gc.freeze()
    gc.set_threshold(*_as_it_was)
