"""The class that Hydra finds. The work is in `lr_study`, which is imported when a sweep starts."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.lr_study_sweeper import config as _config  # noqa: F401  (registers the options)


class LRStudySweeper(Sweeper):
    """Makes a cell of each combination of choices, and searches the intervals in one Optuna study for each cell."""

    def __init__(self, **options: Any) -> None:
        """Do nothing: `options` are read from the composed configuration, since each cell resolves its own."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `sweep` needs. It makes the launcher itself, once it knows the trials' storage."""
        self._given = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep that the command line's `arguments` and `hydra.sweeper.params` ask for."""
        from lr_study.sweep import run_sweep

        return run_sweep(*self._given, arguments)
