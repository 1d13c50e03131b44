"""The class that Hydra finds. The work is in `lr_study`, which is imported when a sweep starts."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.lr_study_sweeper import config as _config  # noqa: F401  (registers the options)


class LRStudySweeper(Sweeper):
    """Makes a cell of each combination of choices, and searches the intervals in one Optuna study for each cell."""

    def __init__(self, **options: Any) -> None:
        # `options` are read from the composed configuration instead, since each cell resolves its own.
        self.hydra_context: HydraContext | None = None
        self.task_function: TaskFunction | None = None
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `sweep` needs. It makes the launcher itself, once it knows the trials' storage."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep that the command line's `arguments` and `hydra.sweeper.params` ask for."""
        from lr_study.sweep import run_sweep

        assert self.hydra_context is not None
        assert self.task_function is not None
        assert self.config is not None
        return run_sweep(self.hydra_context, self.task_function, self.config, arguments)
