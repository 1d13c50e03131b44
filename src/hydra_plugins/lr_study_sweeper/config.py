"""The sweeper's options, and the samplers and pruners that are ready to choose."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class LRStudySweeperConf:
    """Options of `hydra/sweeper=lr_study`."""

    _target_: str = "hydra_plugins.lr_study_sweeper.lr_study_sweeper.LRStudySweeper"
    # The sweep builds nested `_target_`s itself, when it needs them.
    _recursive_: bool = False
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "none"}])

    # The sweep's name, the first part of its studies' names; null is the name of the job.
    name: str | None = None

    # Finished trials in each study, over all replicates. Without an interval, each replicate runs once.
    n_trials: int = 24

    # minimize or maximize; a list of these for a task that returns several numbers
    direction: Any = "minimize"

    # The path of an Optuna journal file, or the URL of an Optuna database; null is optuna.journal in hydra.sweep.dir.
    # A sweep without an interval and without a storage can't be resumed: it runs all of its jobs each time.
    storage: str | None = None

    # An Optuna sampler as a `_target_` node (group hydra/sweeper/sampler). Where it takes a seed, the seed follows from
    # (seed, study, slot).
    sampler: Any = MISSING

    # An Optuna pruner as a `_target_` node (group hydra/sweeper/pruner), used by `current_trial().should_prune()`.
    pruner: Any = MISSING

    # Decides every random choice of the search.
    seed: int = 0

    # Parameters to sweep besides the command line's; an override of the same key replaces an entry.
    params: dict[str, Any] = field(default_factory=dict)

    # A swept key whose values make no cells. Each study's trials take them in turn.
    replicate_key: str | None = None

    # Keys that are part of a cell's name even where only one value is given.
    cell_keys: list[str] = field(default_factory=list)

    # Keys (with all keys below them) that may differ when a sweep is resumed. Any other difference is refused.
    may_change: list[str] = field(default_factory=list)

    # How often an interval on a log scale may be widened by two octaves, where its outermost octave holds the best
    # results.
    widenings: int = 0

    # The sweep stops when a larger share of its trials has failed.
    max_failure_rate: float = 0.5

    # How many jobs the launcher runs at once; null reads it from the launcher's own options.
    workers: int | None = None

    # The most jobs that the launcher gets in one call; null is no limit.
    max_batch_size: int | None = None

    # A `lr_study.Hooks` as a `_target_` node, called around the sweep.
    hooks: Any = None


# Optuna's TPE and GP start with ten random trials, a large part of a study of a few dozen.
_SAMPLERS = {
    "tpe": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3, "constant_liar": True},
    "gp": {"_target_": "optuna.samplers.GPSampler", "n_startup_trials": 3},
    "cmaes": {"_target_": "optuna.samplers.CmaEsSampler", "n_startup_trials": 3, "warn_independent_sampling": False},
    "qmc": {"_target_": "optuna.samplers.QMCSampler", "warn_independent_sampling": False},
    "grid": {"_target_": "lr_study.grid.GridSampler", "points": 8},
    "random": {"_target_": "optuna.samplers.RandomSampler"},
}
_PRUNERS = {
    "none": {"_target_": "optuna.pruners.NopPruner"},
    "median": {"_target_": "optuna.pruners.MedianPruner"},
    "hyperband": {"_target_": "optuna.pruners.HyperbandPruner"},
    "successive_halving": {"_target_": "optuna.pruners.SuccessiveHalvingPruner"},
}
_OPTIONS: dict[str, Any] = {"lr_study": LRStudySweeperConf}
for _group, _nodes in (("", _OPTIONS), ("/sampler", _SAMPLERS), ("/pruner", _PRUNERS)):
    for _name, _node in _nodes.items():
        ConfigStore.instance().store(_name, _node, f"hydra/sweeper{_group}", provider="lr_study_sweeper")
