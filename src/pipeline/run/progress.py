"""What a run shows while it trains: a bar on a terminal, plain lines elsewhere, nothing in a sweep's trial."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lr_study.masking import mask_passwords
from pipeline.config import Config
from pipeline.config.checks import warn_linear_adam
from pipeline.run.recording import lr_factor

if TYPE_CHECKING:
    from pipeline.engine import Evaluation, FitResult
    from pipeline.tracking.run import TrackedRun


log = logging.getLogger("pipeline.run")


class Reporter:
    """Tells nothing: a trial in a sweep, whose driver reports for all."""

    def steps(self, done: int) -> None:
        """`done` optimizer steps are done."""

    def evaluation(self, evaluation: "Evaluation") -> None:
        """An evaluation was made."""

    def test(self, loss: float, error: float) -> None:
        """The test split was evaluated."""

    def done(self, result: "FitResult", run: "TrackedRun") -> None:
        """The run has ended and is closed."""


class LineReporter(Reporter):
    """A line for each evaluation, on stdout."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def evaluation(self, evaluation: "Evaluation") -> None:
        m = evaluation.metrics
        self.console.print(
            f"epoch {evaluation.epoch:3d}  step {evaluation.step:6d}  "
            f"train loss {m['train/loss']:.4f} error {m['train/error']:6.2%}  "
            f"val loss {m['val/loss']:.4f} error {m['val/error']:6.2%}  "
            f"{m['examples_per_second']:,.0f} examples/s"
        )

    def test(self, loss: float, error: float) -> None:
        self.console.print(f"test loss {loss:.4f} error {error:.2%}")

    def done(self, result: "FitResult", run: "TrackedRun") -> None:
        uri = mask_passwords(run.target.uri)
        where = (
            f"MLflow run {run.id} in {uri} (browse: make ui)"
            if run.is_sent
            else f"what is not in MLflow at {uri} yet is in {run.spool.path} (later: {run.target.sync_command})"
        )
        self.console.print(f"{result.status} after {result.steps} steps; {where}")


class BarReporter(LineReporter):
    """The lines, and a bar below them."""

    def __init__(self, console: Console, bar: Progress, total_steps: int) -> None:
        super().__init__(console)
        self.bar = bar
        self.task = bar.add_task("steps", total=total_steps)

    def steps(self, done: int) -> None:
        self.bar.update(self.task, completed=done)


@contextmanager
def reporter(total_steps: int, quiet: bool) -> Iterator[Reporter]:
    """The reporter that fits where stdout goes."""
    if quiet:
        yield Reporter()
        return
    # Without a terminal rich would fold lines at 80 characters; and a folder's name may have brackets in it.
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
