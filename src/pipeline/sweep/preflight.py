"""Builds what configurations ask for, in other processes than the sweep's driver, and says what can't be built.

The driver of a sweep imports no torch. Where its trials run in processes of this machine (hydra/launcher=cores), these
build, a share each: they have torch and the data set at hand then when the first trial comes. Elsewhere it is
`python -m pipeline.sweep.preflight`, with the configurations as a JSON list on stdin; the answer on stdout is JSON too:
 a message, or null where all is well.
"""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from pipeline.collector import collect_seldom
from pipeline.config import Config, as_dict, from_dict
from pipeline.distributed import child
from pipeline.errors import RequestError


def check_buildable(configs: list[Config], launcher: Mapping[str, Any]) -> None:
    """Build each of the resolved `configs`, without training, in other processes.

    Args:
        configs: from `pipeline.config.resolve`.
        launcher: the node `hydra.launcher`.

    Raises:
        RequestError: the first one that can't be built.
    """
    messages = _ask_workers(configs, launcher) or [_ask_process(configs)]
    for message in messages:
        if message is not None:
            raise RequestError(message)


def _ask_workers(configs: list[Config], launcher: Mapping[str, Any]) -> list[str | None]:
    """The answers of the launcher's own workers; none where it has no more than the driver's process."""
    from joblib import delayed, effective_n_jobs

    from lr_study.worker_processes import TARGET, workers

    if launcher["_target_"] != TARGET or (count := effective_n_jobs(launcher["n_jobs"])) == 1:
        return []
    run = workers(launcher["n_jobs"], "generator")
    answers = run(delayed(build_and_get_ready)(configs[i::count]) for i in range(count))
    _import_tracking(configs[0])  # the driver needs it too, and has nothing to do meanwhile
    return list(answers)


def build_and_get_ready(configs: list[Config]) -> str | None:
    """What can't be built, or None; goes on importing what a first trial needs beside it."""
    collect_seldom()
    message = first_refusal(configs)
    if message is None:
        threading.Thread(target=_import_tracking, args=configs[:1], name="getting ready", daemon=True).start()
    return message


def _import_tracking(config: Config) -> None:
    with contextlib.suppress(ImportError):  # the trial itself says what is missing
        import pipeline.tracking.spool.uploader  # noqa: F401
        from pipeline.tracking.store import import_for

        import_for(config.tracking.uri)


def _ask_process(configs: list[Config]) -> str | None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.sweep.preflight"],
        input=json.dumps([as_dict(config) for config in configs]),
        capture_output=True,
        text=True,
        env=child.environment(),
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"The check of the request failed:\n{done.stderr.strip()}")
    message: str | None = json.loads(done.stdout.splitlines()[-1])
    return message


def first_refusal(configs: list[Config]) -> str | None:
    """Build `configs` in this process; what the first refusal says, or None."""
    from pipeline.engine import World
    from pipeline.run.workload import build_workload

    try:
        for config in configs:
            build_workload(config, in_sweep=True, world=World(0, config.runtime.workers))
    except RequestError as error:
        return str(error)
    return None


def main() -> None:
    """Read configurations, build them, print the first refusal."""
    configs = [from_dict(tree) for tree in json.load(sys.stdin)]
    # What user code prints while it is built must not mix with the answer.
    with contextlib.redirect_stdout(sys.stderr):
        message = first_refusal(configs)
    print(json.dumps(message))


if __name__ == "__main__":
    main()
