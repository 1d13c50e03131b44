"""What a run prints while it trains: a progress bar on a terminal, lines elsewhere, nothing in a sweep's trial."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lr_study.masking import mask_passwords
from pipeline.config import Config
from pipeline.config.checks import warn_linear_adam
from pipeline.engine import Evaluation, FitResult
from pipeline.run.recording import lr_factor
from pipeline.tracking.run import TrackedRun

log = logging.getLogger("pipeline.run")


class Reporter:
    """Prints nothing: for a sweep's trial, since the sweep's driver reports for all of them."""

    def steps(self, done: int) -> None:
        """Take note that `done` optimizer steps are done."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """Take note of an evaluation."""

    def test(self, loss: float, error: float) -> None:
        """Take note of the test split's loss and error."""

    def done(self, result: FitResult, run: TrackedRun) -> None:
        """Take note that the run has ended and is closed."""


class LineReporter(Reporter):
    """Prints a line for each evaluation, on stdout."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def evaluation(self, evaluation: Evaluation) -> None:
        m = evaluation.metrics
        self.console.print(
            f"epoch {evaluation.epoch:3d}  step {evaluation.step:6d}  "
            f"train loss {m['train/loss']:.4f} error {m['train/error']:6.2%}  "
            f"val loss {m['val/loss']:.4f} error {m['val/error']:6.2%}  "
            f"{m['examples_per_second']:,.0f} examples/s"
        )

    def test(self, loss: float, error: float) -> None:
        self.console.print(f"test loss {loss:.4f} error {error:.2%}")

    def done(self, result: FitResult, run: TrackedRun) -> None:
        uri = mask_passwords(run.target.uri)
        where = (
            f"MLflow run {run.id} in {uri} (browse: make ui)"
            if run.is_sent
            else f"what MLflow at {uri} lacks is kept in {run.spool.path} (to send it later: {run.target.sync_command})"
        )
        self.console.print(f"{result.status} after {result.steps} steps; {where}")


class BarReporter(LineReporter):
    """Prints the lines, and a progress bar below them."""

    def __init__(self, console: Console, bar: Progress, total_steps: int) -> None:
        super().__init__(console)
        self.bar = bar
        self.task = bar.add_task("steps", total=total_steps)

    def steps(self, done: int) -> None:
        self.bar.update(self.task, completed=done)


@contextmanager
def reporter(total_steps: int, quiet: bool) -> Iterator[Reporter]:
    """The reporter that suits stdout."""
    if quiet:
        yield Reporter()
        return
    # Without a terminal rich would wrap lines at 80 characters. A folder's name may hold brackets, which are no markup.
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not sys.stdout.isatty():
        yield LineReporter(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield BarReporter(console, bar, total_steps)


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
