"""What a run prints: its LR first, lines and a progress bar while it trains, and at the end where it is tracked."""

import logging
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lr_study.masking import mask_passwords
from pipeline.config import Config
from pipeline.config.checks import warn_linear_adam
from pipeline.engine import Evaluation
from pipeline.run.recording import lr_factor
from pipeline.run.replicates import Replicates
from pipeline.tracking.run import TrackedRun

log = logging.getLogger("pipeline.run")


class Reporter:
    """Prints a line for each evaluation on stdout and, on a terminal, a progress bar below the lines.

    Args:
        total_steps: optimizer steps in the run.
        quiet: print nothing. For a sweep's trial, since the sweep's driver reports for all of them.
    """

    def __init__(self, total_steps: int, quiet: bool = False) -> None:
        # Without a terminal rich would wrap lines at 80 characters. A folder's name may hold brackets: no markup.
        self.console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = quiet or not sys.stdout.isatty()
        self.bar = Progress(*columns, console=self.console, transient=True, disable=hidden)
        self.task = self.bar.add_task("steps", total=total_steps)

    def steps(self, done: int) -> None:
        """Show that `done` optimizer steps are done."""
        self.bar.update(self.task, completed=done)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Print the metrics of an evaluation."""
        m = evaluation.metrics
        replicates = f"  mean of {m['replicates']}" if "replicates" in m else ""
        self.console.print(
            f"epoch {evaluation.epoch:3d}  step {evaluation.step:6d}  "
            f"train loss {m['train/loss']:.4f} error {m['train/error']:6.2%}  "
            f"val loss {m['val/loss']:.4f} error {m['val/error']:6.2%}  "
            f"{m['examples_per_second']:,.0f} examples/s{replicates}"
        )

    def test(self, loss: float, error: float) -> None:
        """Print the test split's loss and error."""
        self.console.print(f"test loss {loss:.4f} error {error:.2%}")

    def done(self, results: Replicates, run: TrackedRun) -> None:
        """Print how the run has ended, and where it is tracked."""
        steps = max(result.steps for result in results.by_seed.values())
        ended, uri = f"{results.status_text} after {steps} steps", mask_passwords(run.target.uri)
        if run.is_sent:
            self.console.print(f"{ended}; MLflow run {run.id} in {uri} (browse: make ui)")
            return
        self.console.print(f"{ended}; what MLflow at {uri} lacks is kept in {run.spool.path}")
        self.console.print(f"To send it later: {run.target.sync_command}")


def announce(config: Config, steps: int) -> None:
    """Say which LR is used and why, before anything trains."""
    optimizer, factor = config.optimizer, lr_factor(config)
    if factor is None:
        log.info("batch %d, LR %s, %d steps", config.batch, optimizer.get("lr"), steps)
        return
    log.info(
        "batch %d: LR %.4g = %.4g × %.4g (rule %s; base LR %.4g at batch %d), %d steps",
        *(config.batch, optimizer["lr"], optimizer["base_lr"], factor, config.scaling.rule),
        *(optimizer["base_lr"], config.scaling.base_batch, steps),
    )
    warn_linear_adam(config)
