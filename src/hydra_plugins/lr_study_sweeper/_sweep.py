"""The sweep: waves of trials over all open studies, until each has what it was asked for."""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.lr_study_sweeper._errors import SweepFailedError, SweepRequestError
from hydra_plugins.lr_study_sweeper._hooks import Hooks, NoHooks, Outcome, Progress, Sweep
from hydra_plugins.lr_study_sweeper._space import read_request
from hydra_plugins.lr_study_sweeper._trial import TrialTask

log = logging.getLogger(__name__)


def run_sweep(context: HydraContext, task_function: TaskFunction, config: DictConfig, arguments: Sequence[str]) -> None:
    """Check the request, then run what it still needs; running it again finishes or extends it."""
    options = config.hydra.sweeper
    _check_options(options)
    request = read_request(config, context.config_loader, arguments)
    hooks: Hooks = NoHooks() if options.hooks is None else instantiate(options.hooks)
    hooks.check(request.cells)

    # Optuna takes half a second to import, too long for a request that is refused before this.
    import optuna

    from hydra_plugins.lr_study_sweeper._sampler import make_sampler
    from hydra_plugins.lr_study_sweeper._storage import open_storage
    from hydra_plugins.lr_study_sweeper._study import CellStudy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = options.name or config.hydra.job.name
    if request.searches:
        make_sampler(options.sampler, options.seed, name, 0)
    folder = Path(os.path.abspath(config.hydra.sweep.dir))
    with _only_driver(folder, name):
        url = _prepare_storage(options.storage, folder)
        storage = open_storage(url)
        studies = [CellStudy(name, cell, request.replicates, options, storage) for cell in request.cells]
        for study in studies:
            study.give_up_lost()
        progress = _progress(studies)
        everywhere = hooks.started(Sweep(name, config, request.cells, progress.total, progress.finished))
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=TrialTask(task_function, url), config=config
        )
        status = "interrupted"
        try:
            _run_waves(launcher, studies, everywhere, hooks, options.max_failure_rate, _workers(config))
            status = "complete"
        except Exception:
            status = "failed"
            raise
        finally:
            hooks.ended(Outcome(status, _progress(studies)))


def _check_options(options: DictConfig) -> None:
    if options.n_trials < 1:
        raise SweepRequestError(f"hydra.sweeper.n_trials={options.n_trials}: a study has at least one trial.")
    if not 0 <= options.max_failure_rate <= 1:
        raise SweepRequestError(f"hydra.sweeper.max_failure_rate={options.max_failure_rate}: it is a share, 0 to 1.")
    if options.direction not in ("minimize", "maximize"):
        raise SweepRequestError(f"hydra.sweeper.direction={options.direction}: it is minimize or maximize.")


@contextmanager
def _only_driver(folder: Path, name: str) -> Iterator[None]:
    """Hold the sweep's folder: two drivers of one sweep would ask for its trials twice."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "driver.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise SweepRequestError(
            f"The sweep {name} is running already ({lock.lock_file}).\nWait for it to end."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _prepare_storage(configured: str | None, folder: Path) -> str:
    from hydra_plugins.lr_study_sweeper._storage import is_database, prepare_journal

    if configured is not None and is_database(configured):
        return configured
    # Absolute: workers may stand in another folder.
    path = os.path.abspath(configured or folder / "optuna.journal")
    prepare_journal(path)
    return path


def _run_waves(
    launcher: Launcher,
    studies: Sequence[Any],
    everywhere: Mapping[str, str],
    hooks: Hooks,
    max_failure_rate: float,
    workers: int,
) -> None:
    job_number = 0
    while open_studies := [study for study in studies if study.remaining()]:
        jobs = _next_wave(open_studies, workers)
        extra = [f"{key}={value}" for key, value in everywhere.items()]
        # A key given on the command line is the user's, and stays.
        overrides = [[*(e for e in extra if not _names(job.overrides, e)), *job.overrides] for job in jobs]
        _launch(launcher, jobs, overrides, job_number)
        job_number += len(jobs)
        progress = _progress(studies)
        hooks.wave_done(progress)
        if progress.failed > max_failure_rate * progress.finished:
            failures = [(study, trial) for study in studies for trial in study.failed()]
            study, trial = failures[0]
            raise SweepFailedError(
                f"{progress.failed} of {progress.finished} trials failed, so the sweep stopped; what finished is kept. "
                f"Trial {trial.number} of {study.name}: {trial.user_attrs.get('error')}"
                "\nMend it and run the same command again, or raise hydra.sweeper.max_failure_rate."
            )


def _names(overrides: Sequence[str], override: str) -> bool:
    key = override.split("=", 1)[0]
    return any(other.split("=", 1)[0].lstrip("+") == key for other in overrides)


def _next_wave(studies: Sequence[Any], workers: int) -> list[Any]:
    """At least two trials a worker, spread evenly over the studies, the longest first."""
    each = math.ceil(2 * workers / len(studies))
    ordered = sorted(studies, key=lambda study: -study.mean_seconds())
    return [study.ask() for study in ordered for _ in range(min(each, study.remaining()))]


def _launch(launcher: Launcher, jobs: Sequence[Any], overrides: list[list[str]], first: int) -> None:
    """Run a wave. What the launcher returns or raises is a hint: the storage knows what was finished."""
    try:
        launcher.launch(overrides, initial_job_idx=first)
    except Exception as error:
        log.warning("A wave was broken off (%s); what it left is run one at a time.", _first_line(error))
    for position, job in enumerate(jobs):
        if not job.study.is_running(job.number):
            continue
        try:
            launcher.launch([overrides[position]], initial_job_idx=first + position)
        except Exception as error:
            job.study.fail(job.number, f"its process died: {_first_line(error)}")
        else:
            if job.study.is_running(job.number):
                job.study.fail(job.number, "its process ended without a result")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _workers(config: DictConfig) -> int:
    """How many trials the launcher runs at once, where its configuration says so."""
    n_jobs = OmegaConf.select(config, "hydra.launcher.n_jobs", default=1)
    return (
        n_jobs
        if n_jobs > 0
        else len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )


def _progress(studies: Sequence[Any]) -> Progress:
    return Progress(
        finished=sum(len(study.finished()) for study in studies),
        failed=sum(len(study.failed()) for study in studies),
        total=sum(study.n_trials for study in studies),
    )
