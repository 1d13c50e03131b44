"""How often Python's garbage collector runs: seldom during imports, as usual during training.

torch, MLflow and their dependencies create 300,000 objects that live as long as the process. The collector searches
them for cycles again and again during the imports, and once more at exit. Measured: 0.4 of the 2.3 s of the imports,
and 0.9 of the 1.1 s between a command's last line and its exit.
"""

import atexit
import functools
import gc

# `gc.set_threshold`'s arguments; Python's own are 700, 10, 10.
IMPORT_THRESHOLDS = (50_000, 20, 100)
_usual_thresholds = gc.get_threshold()


@functools.cache
def collect_seldom() -> None:
    """From here on run the collector seldom, and not at all at exit."""
    gc.set_threshold(*IMPORT_THRESHOLDS)
    atexit.register(gc.freeze)


@functools.cache
def collect_as_usual() -> None:
    """Run the collector as often as usual, since cycles in training may hold large tensors; skip what exists by now."""
    gc.freeze()
    gc.set_threshold(*_usual_thresholds)
