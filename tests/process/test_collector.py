"""When Python looks for cycles: in processes of their own, since it holds for a whole process."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, gc
frozen = gc.get_freeze_count()  # Python 3.12 starts with some
atexit.register(lambda: print("left alone at the end:", gc.get_freeze_count() > frozen))
from pipeline.process.collector import collect_as_usual, collect_seldom
usual = gc.get_threshold()
class Cycle:
    count = 0
    def __init__(self):
        self.itself = self
        Cycle.count += 1
    def __del__(self):
        Cycle.count -= 1
def cycles_left():
    Cycle.count = 0
    for _ in range(5000):
        Cycle()
    return Cycle.count
{call}
print(gc.get_threshold() == usual, cycles_left() <= usual[0])
"""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("", ["True True", "left alone at the end: False"]),
        ("collect_seldom()", ["False False", "left alone at the end: True"]),
        ("collect_seldom(); collect_as_usual()", ["True True", "left alone at the end: True"]),
    ],
)
def test_cycles_are_looked_for_seldom_until_the_training(call, said):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(call=call)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == said
