"""The sweeper's options, and the samplers that are ready to choose."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class TrialAddress:
    """Which trial a job is: set by the sweeper in each job's own configuration."""

    study: str | None = None
    number: int | None = None


@dataclass
class LRStudySweeperConf:
    """Options of `hydra/sweeper=lr_study`."""

    _target_: str = "hydra_plugins.lr_study_sweeper.lr_study_sweeper.LRStudySweeper"
    # Nested `_target_`s are built when they are needed, in the sweep, not when Hydra makes the sweeper.
    _recursive_: bool = False
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])

    # The sweep's name, the first part of its studies' names; null takes the name of the job.
    name: str | None = None

    # Finished trials in each study, over all replicates. Without an interval a cell runs once a replicate.
    n_trials: int = 24

    # minimize or maximize
    direction: str = "minimize"

    # A path is an Optuna journal file, a URL an Optuna database; null is optuna.journal in hydra.sweep.dir.
    storage: str | None = None

    # An Optuna sampler as a `_target_` node (group hydra/sweeper/sampler); where it takes a seed it gets one,
    # from (seed, study, trial).
    sampler: Any = MISSING

    # Decides every random choice of the search.
    seed: int = 0

    # Parameters to sweep besides the command line's; an override of the same key replaces an entry.
    params: dict[str, Any] = field(default_factory=dict)

    # A swept key whose values make no cells: each study's trials take them in turn.
    replicate_key: str | None = None

    # The sweep stops when a larger share of its trials has raised an error.
    max_failure_rate: float = 0.5

    # An object with check(cells), started(sweep), wave_done(progress), ended(outcome), as a `_target_` node.
    hooks: Any = None

    # Set by the sweeper in each job's configuration.
    trial: TrialAddress = field(default_factory=TrialAddress)


_STORE = ConfigStore.instance()
_STORE.store(group="hydra/sweeper", name="lr_study", node=LRStudySweeperConf, provider="lr_study_sweeper")
# Optuna's TPE and GP start with ten random trials, which in a study of a few dozen is random search.
_SAMPLERS = {
    "tpe": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3, "constant_liar": True},
    "gp": {"_target_": "optuna.samplers.GPSampler", "n_startup_trials": 3},
    "qmc": {"_target_": "optuna.samplers.QMCSampler", "warn_independent_sampling": False},
    "random": {"_target_": "optuna.samplers.RandomSampler"},
}
for _name, _node in _SAMPLERS.items():
    _STORE.store(group="hydra/sweeper/sampler", name=_name, node=_node, provider="lr_study_sweeper")
