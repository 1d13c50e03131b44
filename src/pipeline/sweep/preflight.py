"""Builds what a sweep's configurations ask for, before the first trial, and says what can't be built.

The sweep's driver imports no torch, so other processes build. With hydra/launcher=cores these are the launcher's own
worker processes, a share of the configurations each: they have torch, MLflow and the data set loaded when their first
trial comes. Elsewhere it is `python -m pipeline.sweep.preflight`, which reads the configurations as a JSON list on
stdin and prints a JSON string, the first refusal, or null.
"""

import contextlib
import json
import multiprocessing.resource_tracker
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any, cast

from lr_study.errors import reason_of
from lr_study.worker_processes import TARGET, dismiss_workers, end_with_driver, workers
from pipeline.config import Config, as_dict, from_dict
from pipeline.errors import RequestError, RunError
from pipeline.process.collector import collect_seldom
from pipeline.tracking.loading import load_mlflow


def check_buildable(configs: Sequence[Config], launcher: Mapping[str, Any]) -> None:
    """Build each of `configs`, without training, in other processes; raise RequestError for the first that can't be."""
    for message in _ask_workers(configs, launcher) or [_ask_process(configs)]:
        if message is not None:
            raise RequestError(message)


def _ask_workers(configs: Sequence[Config], launcher: Mapping[str, Any]) -> list[str | None]:
    """The answers of the launcher's worker processes; none where the launcher has only the driver's process."""
    from joblib import delayed, effective_n_jobs

    if launcher["_target_"] != TARGET or (count := effective_n_jobs(launcher["n_jobs"])) == 1:
        return []
    # Every worker gets one at least: trials run on all of them, and a second build beside the first costs no time.
    shares = [configs[i::count] or configs[:1] for i in range(count)]
    try:
        with _deaf_workers():
            answers = workers(launcher["n_jobs"], "generator")(delayed(build_and_import)(share) for share in shares)
        _load_mlflow(configs[0].tracking.uri)  # the driver needs it too, and would only wait now
        return list(answers)
    except (BrokenExecutor, OSError) as error:
        raise RunError(
            f"The sweep's worker processes can't start, or died: {reason_of(error)}."
            "\nIf memory or processes are short, use fewer: hydra.launcher.n_jobs=1."
        ) from error
    except BaseException:
        dismiss_workers(at_once=True)
        raise


@contextlib.contextmanager
def _deaf_workers() -> Iterator[None]:
    """Let processes that start in the block ignore Ctrl-C and a closed terminal: the driver hears them, and ends them.

    Else each of them prints a traceback.
    """
    # Processes inherit what is blocked; this one gets a signal that came meanwhile after the block.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        # Python's and joblib's trackers of shared memory first, since their start unblocks Ctrl-C.
        multiprocessing.resource_tracker.ensure_running()
        # Private part of joblib: without it, Ctrl-C while workers start may print a traceback of theirs.
        with contextlib.suppress(ImportError):
            from joblib.externals.loky.backend.resource_tracker import ensure_running

            ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def build_and_import(configs: Sequence[Config]) -> str | None:
    """The first refusal or None; also imports MLflow, which a first trial would wait for."""
    collect_seldom()
    end_with_driver()
    message = first_refusal(configs)
    if message is None:
        _load_mlflow(configs[0].tracking.uri)
    return message


def _load_mlflow(uri: str) -> None:
    with contextlib.suppress(Exception):  # the first trial meets it again, and says what is missing
        load_mlflow(uri)


def _ask_process(configs: Sequence[Config]) -> str | None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.sweep.preflight"],
        input=json.dumps([as_dict(config) for config in configs]),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        # This process's import path: the working directory is on it.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path])},
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"The check of the request failed:\n{done.stderr.strip()}")
    return cast("str | None", json.loads(done.stdout.splitlines()[-1]))


def first_refusal(configs: Sequence[Config]) -> str | None:
    """Build `configs` in this process; the message of the first refusal, or None."""
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
    # What a user's code prints while it is built must not mix with the answer.
    with contextlib.redirect_stdout(sys.stderr):
        message = first_refusal(configs)
    print(json.dumps(message))


if __name__ == "__main__":
    main()
