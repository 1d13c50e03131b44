"""The environment for a child process that is to find what this one finds."""

import os
import sys


def environment() -> dict[str, str]:
    """This process's environment, with its import path: `python -m` puts the working directory on it."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])}
