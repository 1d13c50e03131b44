"""A sweep from its request to its end: check everything, open the studies, run the waves, close whatever happens."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lr_study.cell_loader import replicate_values
from lr_study.errors import SweepRequestError, reason_of
from lr_study.hooks import Hooks, Outcome, Progress, Sweep
from lr_study.interruption import ending_on_signals
from lr_study.masking import mask_passwords, mask_tree
from lr_study.process import command_line
from lr_study.space import Request, read_request

if TYPE_CHECKING:
    from lr_study.trial_task import TrialTask

log = logging.getLogger(__name__)


def run_sweep(context: HydraContext, task_function: TaskFunction, config: DictConfig, arguments: Sequence[str]) -> Any:
    """Check the request, then run what it still needs; running it again finishes or extends it.

    Returns:
        Without an interval, the jobs' returns in batches, as Hydra's own sweepers; else None.
    """
    _check_options(config.hydra.sweeper)
    storage_given = config.hydra.sweeper.storage
    config = _without_secrets(config)
    options = config.hydra.sweeper
    request = read_request(config, context.config_loader, arguments)
    replicates = replicate_values(context.config_loader, config, request)
    hooks: Hooks = Hooks() if options.hooks is None else instantiate(options.hooks)

    # Optuna takes half a second to import, too long for a request that is refused before this.
    import optuna

    from lr_study.build import directions_of, try_out
    from lr_study.damage import naming_damage, refuse_damaged
    from lr_study.lease import only_driver
    from lr_study.storage import check_storage, closing_connections, is_database, open_storage, prepare_journal
    from lr_study.trial_task import TrialTask

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = options.name or config.hydra.job.name
    folder = Path(os.path.abspath(config.hydra.sweep.dir))
    # A plain grid starts afresh each time, as with Hydra's own sweepers, unless a storage is named.
    afresh = storage_given is None and not request.searches
    url = storage_given or str(folder / ("grid.journal" if afresh else "optuna.journal"))
    shared = is_database(url)
    if not shared:
        url = os.path.abspath(url)  # workers may have another working directory
    check_storage(url)
    if not afresh:
        refuse_damaged(url)
    try_out(request, options)
    hooks.check(request.cells, replicates)  # last, since an app may build what every cell asks for
    folder.mkdir(parents=True, exist_ok=True)
    alone = contextlib.nullcontext() if shared else only_driver(folder, name, url)
    with alone, ending_on_signals(), naming_damage(url), closing_connections():
        # As Hydra's own sweepers do, but without passwords.
        saved = OmegaConf.create(mask_tree(OmegaConf.to_container(config)))
        (folder / "multirun.yaml").write_text(OmegaConf.to_yaml(saved), encoding="utf-8")
        if afresh:
            Path(url).unlink(missing_ok=True)
            open_storage.cache_clear()
        if not shared:
            prepare_journal(url)
        objectives = len(directions_of(options))
        pruner: Any = OmegaConf.to_container(options.pruner, resolve=True) if options.pruner else {}
        pruner = pruner if pruner.get("_target_") else None
        task = TrialTask(task_function, url, objectives, request.searches, pruner, command_line())
        return _drive(name, context, config, request, hooks, task)


def _drive(
    name: str, context: HydraContext, config: DictConfig, request: Request, hooks: Hooks, task: "TrialTask"
) -> Any:
    """Open the studies, and run them until each is complete."""
    from lr_study.launching import Launching
    from lr_study.lease import hold_lease, refuse_second
    from lr_study.storage import is_database, open_storage
    from lr_study.stored_study import StoredStudy
    from lr_study.study import CellStudy
    from lr_study.waves import Waves

    options = config.hydra.sweeper
    shared = is_database(task.storage)
    try:
        storage = open_storage(task.storage)
    except Exception as error:
        given = f"hydra.sweeper.storage={mask_passwords(task.storage)}"
        raise SweepRequestError(f"{given}: Optuna can't use it ({reason_of(error)}).") from error
    launching = Launching(context, config, task)
    stored = [StoredStudy(storage, name, cell, shared) for cell in request.cells]
    studies = [CellStudy(study, request.replicates, options) for study in stored]
    existing = {study.study_name: study for study in storage.get_all_studies()}
    for study in studies:
        if study.name in existing:
            study.stored.check_same(existing[study.name].user_attrs, options.may_change)
    for study in studies:
        study.open()
    if not shared:
        refuse_second([storage.get_study_user_attrs(study.stored.study_id) for study in studies], name)
    with hold_lease(storage, studies[0].stored.study_id) as lease:
        for study in studies:
            study.stored.driver = lease
            study.load()
        launching.next_job = sum(len(study.history.ended) for study in studies)
        waves = Waves(launching, studies, hooks, config)
        before = waves.progress
        sweep = Sweep(name, config, request.cells, before.total, before.finished)
        status = "interrupted"
        everywhere = hooks.started(sweep)
        try:
            waves.run(sweep, everywhere)
            status = "complete"
        except Exception:
            status = "failed"
            raise
        except BaseException:
            waves.interrupt()
            _say_interrupted(waves.progress)
            raise
        finally:
            try:
                hooks.ended(Outcome(status, waves.progress))
            except (KeyboardInterrupt, SystemExit):
                if status == "complete":
                    _say_interrupted(waves.progress)
                raise
    return waves.returns if not request.searches else None


def _say_interrupted(progress: Progress) -> None:
    log.warning(
        "Interrupted after %d of %d trials. Run the same command again to resume the sweep:\n%s",
        *(progress.finished, progress.total, command_line(sys.orig_argv[0])),
    )


def _check_options(options: DictConfig) -> None:
    if options.n_trials < 1:
        raise SweepRequestError(f"hydra.sweeper.n_trials={options.n_trials}: a study has at least one trial.")
    if not 0 <= options.max_failure_rate <= 1:
        raise SweepRequestError(f"hydra.sweeper.max_failure_rate={options.max_failure_rate}: it is a share, 0 to 1.")
    for key in ("workers", "max_batch_size"):
        if options[key] is not None and options[key] < 1:
            raise SweepRequestError(f"hydra.sweeper.{key}={options[key]}: it is 1 or more, or null.")
    if options.widenings < 0:
        raise SweepRequestError(f"hydra.sweeper.widenings={options.widenings}: it is 0 or more.")
    directions = [options.direction] if isinstance(options.direction, str) else list(options.direction or [])
    if not directions or any(direction not in ("minimize", "maximize") for direction in directions):
        raise SweepRequestError(
            f"hydra.sweeper.direction={options.direction}: it is minimize or maximize, or a list of these."
        )


def _without_secrets(config: DictConfig) -> DictConfig:
    """The configuration without the storage's password: no job needs it, and Hydra saves it beside each."""
    url = config.hydra.sweeper.storage
    if url is None or mask_passwords(url) == url:
        return config
    copy = config.copy()
    OmegaConf.copy_cache(from_config=config, to_config=copy)
    with read_write(copy), open_dict(copy):
        copy.hydra.sweeper.storage = mask_passwords(url)
        # Other overrides keep their passwords: jobs are composed from them.
        copy.hydra.overrides.hydra = [
            mask_passwords(text) if text.lstrip("+").startswith("hydra.sweeper.storage=") else text
            for text in copy.hydra.overrides.hydra
        ]
    return copy
