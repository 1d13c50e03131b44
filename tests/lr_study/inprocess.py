"""Run sweeps of the test app in the test's own process, which is much faster than starting one."""

import contextlib
import math
import os

import optuna
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from lr_study import current_trial
from lr_study.storage import open_storage
from tests.lr_study import app  # noqa: F401  (its configuration)


def parabola(cfg):
    """A smooth loss with its minimum where x equals the size, and an offset for each seed."""
    return math.log2(cfg.x / cfg.size) ** 2 + 0.1 * cfg.seed + 1


def multirun(folder, *overrides, task=parabola):
    """Run a sweep with its files in `folder`; returns what the sweeper returns."""
    folder.mkdir(parents=True, exist_ok=True)
    open_storage.cache_clear()
    GlobalHydra.instance().clear()
    before = os.getcwd()
    with contextlib.chdir(folder):
        hydra = Hydra.create_main_hydra2(task_name="app", config_search_path=create_config_search_path(None))
        try:
            return hydra.multirun(
                config_name="app_config",
                task_function=task,
                overrides=[
                    "hydra.sweep.dir=out",
                    "hydra.sweep.subdir=.",
                    "hydra.sweeper.replicate_key=seed",
                    *overrides,
                ],
                with_log_configuration=False,
            )
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
            os.chdir(before)


def trials_of(folder, study="app"):
    """All trials of a study."""
    open_storage.cache_clear()
    storage = open_storage(str(folder / "out" / "optuna.journal"))
    return optuna.load_study(study_name=study, storage=storage).trials


def table(folder, study="app"):
    """Slot → (replicate, parameters, state, values) of the attempts that count."""
    counted = [t for t in trials_of(folder, study) if t.state.is_finished() and not t.user_attrs.get("lost")]
    rows = {t.user_attrs["slot"]: (t.user_attrs.get("replicate"), t.params, t.state, t.values) for t in counted}
    assert len(rows) == len(counted), "a slot was finished twice"
    return rows


def reporting(cfg):
    """A task that reports five epochs, and is pruned where the pruner says so."""
    from lr_study import TrialPruned

    trial = current_trial()
    for epoch in range(1, 6):
        trial.report(parabola(cfg) * (1 + 1 / epoch), epoch, 5)
        if trial.should_prune():
            raise TrialPruned
    return parabola(cfg)
