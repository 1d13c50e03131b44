"""Builds what configurations ask for, in a process of its own, and says what can't be built.

The driver of a sweep imports no torch; it asks `python -m pipeline.dry_run`, with the resolved configurations
as a JSON list on stdin. The answer on stdout is JSON too: a message, or null where all is well.
"""

import contextlib
import json
import subprocess
import sys
from typing import Any

from pipeline import child
from pipeline.errors import RequestError


def check_buildable(configs: list[dict[str, Any]]) -> None:
    """Build each of the resolved `configs`, without training, in another process.

    Raises:
        RequestError: the first one that can't be built.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.dry_run"],
        input=json.dumps(configs),
        capture_output=True,
        text=True,
        env=child.environment(),
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"The check of the request failed:\n{done.stderr.strip()}")
    message = json.loads(done.stdout.splitlines()[-1])
    if message is not None:
        raise RequestError(message)


def main() -> None:
    """Read configurations, build them, print the first refusal."""
    from pipeline.workload import prepare

    configs = json.load(sys.stdin)
    message = None
    # What user code prints while it is built must not mix with the answer.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            for config in configs:
                prepare(config, one_of_many=True)
        except RequestError as error:
            message = str(error)
    print(json.dumps(message))


if __name__ == "__main__":
    main()
