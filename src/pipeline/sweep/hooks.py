"""What this project does around a sweep: check the request, keep a parent run in MLflow, report at the end."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig, open_dict
from rich.console import Console

from lr_study import Abandoned, FixedTrial, Hooks, Outcome, Progress, Sweep
from pipeline.analysis.runs import CONFIRM, choices_of
from pipeline.config import Config, as_dict, flatten, resolve
from pipeline.config.checks import check_request, warn_linear_adam
from pipeline.distributed.torchrun import torchrun_rank
from pipeline.errors import RequestError
from pipeline.run import worker
from pipeline.sweep.preflight import check_buildable
from pipeline.tracking.target import TrackingTarget, check_location

if TYPE_CHECKING:
    from lr_study.space import Cell
    from pipeline.tracking.store import Store

log = logging.getLogger("pipeline.sweep.hooks")
# Seconds between two lines of progress.
QUIET_SECONDS = 5.0
# A trial that has ended may be sending still; other drivers' trials, which go on, are not waited for longer.
LAST_WORDS_SECONDS = 10.0


class SweepHooks(Hooks):
    """The sweeper's hooks; see `lr_study`."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._said_at = 0.0

    def check(self, cells: Sequence["Cell"]) -> None:
        """Refuse what can't be trained in any cell: values, tracking place, data, model, optimizer."""
        if (rank := torchrun_rank()) is not None:
            if rank[0] > 0:
                worker.leave_the_word_to_the_first()
            raise RequestError(
                f"torchrun starts single runs, and -m asks for a sweep.\nLeave torchrun out, and add "
                f"runtime.workers={rank[1]}: each trial starts its own."
            )
        configs = [_task_config(cell.config) for cell in cells]
        if configs[0].resume is not None:
            raise RequestError("resume is for single runs.\nA sweep is gone on with by the same command; leave it out.")
        for config in configs:
            check_request(config)
        check_location(configs[0].tracking.uri)
        check_buildable(configs, cells[0].config.hydra.launcher)
        warn_linear_adam(configs[0])

    def started(self, sweep: Sweep) -> Mapping[str, str]:
        """Open the parent run; trials are told its id and the sweep's name."""
        from pipeline.tracking.sweep import Parent

        base = _task_config(sweep.cells[0].config)
        self._target = TrackingTarget(base.tracking.uri, base.tracking.experiment)
        self._parent = Parent(self._target, sweep.name)
        swept = {key for cell in sweep.cells for key in cell.choices} | {"optimizer.lr", "sweep.parent"}
        common = {key: value for key, value in flatten(as_dict(base)).items() if key not in swept}
        self._parent.describe(common, [cell.name for cell in sweep.cells])
        self._name = sweep.name
        self._keeps_model = base.tracking.log_model == "best"
        direction = sweep.config.hydra.sweeper.direction
        self._maximizes = (direction if isinstance(direction, str) else direction[0]) == "maximize"
        log.info(
            "sweep %s: %d cell(s), %d trials, %d of them done",
            *(sweep.name, len(sweep.cells), sweep.total_trials, sweep.finished_trials),
        )
        self._started_at = time.monotonic()
        # Where MLflow is away there is no id yet: the trials' runs find their parent by the sweep's name, later.
        return {"sweep.name": sweep.name, "sweep.parent": self._parent.id or "null"}

    def wave_done(self, progress: Progress) -> None:
        """Say how far it is: rewriting one line on a terminal, a line now and then elsewhere."""
        now = time.monotonic()
        seconds = now - self._started_at
        failed = f", {progress.failed} failed" if progress.failed else ""
        line = f"{progress.finished}/{progress.total} trials{failed}, {seconds:.0f} s"
        if sys.stderr.isatty():
            end = "\n" if progress.finished >= progress.total else ""
            print(f"\r\x1b[K{line}", end=end, file=sys.stderr, flush=True)
        elif now - self._said_at > QUIET_SECONDS or progress.finished >= progress.total:
            self._said_at = now
            log.info(line)

    def abandoned(self, trials: Sequence[Abandoned]) -> None:
        """Close the MLflow runs of trials whose process could not."""
        from pipeline.tracking.sweep import close_abandoned

        with self._or_later("What died is closed later"):
            store = self._caught_up_store()
            for trial in trials:
                close_abandoned(store, self._name, trial.study, trial.number, trial.status)

    def further_trials(self, sweep: Sweep) -> Sequence[FixedTrial]:
        """Fresh seeds at each rule's LR and at the best one, where the search was of the LR alone."""
        count = _task_config(sweep.cells[0].config).report.confirm_seeds
        searched = [[dimension.key for dimension in cell.dimensions] for cell in sweep.cells]
        if count == 0 or any(keys != ["optimizer.lr"] for keys in searched):
            return []
        from pipeline.report import points_of_sweep

        points = []
        with self._or_later("The confirmation has to wait: run the same command again then"):
            points = list(points_of_sweep(self._caught_up_store(), self._name, count))
        cells = {choices_of(cell.name): cell.name for cell in sweep.cells}
        return [
            FixedTrial(cells[choices], {"optimizer.lr": lr}, str(seed), CONFIRM)
            for choices, lr, seeds in points
            for seed in seeds
            if choices in cells
        ]

    def ended(self, outcome: Outcome) -> None:
        """Report where the sweep is complete, and close the parent run."""
        from lr_study.worker_processes import dismiss_workers

        dismiss_workers()  # they take a second or two to end, and their memory is of use to the report
        try:
            if outcome.status == "complete":
                with self._or_later("The report has to wait: run the same command again then"):
                    self._report(self._caught_up_store())
        finally:
            self._parent.end(outcome.status)

    @contextlib.contextmanager
    def _or_later(self, otherwise: str) -> Iterator[None]:
        """Where MLflow is away, leave the block and say what waits: the trials are done, and recorded."""
        from pipeline.tracking.store import AwayError

        try:
            yield
        except AwayError as error:
            # Not a warning: the parent's run gives the one that this deserves.
            log.info("%s %s.", error, otherwise)

    def _caught_up_store(self) -> "Store":
        """The store, once all that the trials recorded is in it.

        Raises:
            AwayError: it can't be, now.
        """
        from pipeline.tracking.spool.recovery import upload_unsent
        from pipeline.tracking.store import answering, open_store

        with answering(self._target.uri):
            store = open_store(self._target.uri, self._target.experiment)
            sent = upload_unsent(self._target.spool, self._target.uri)
            deadline = time.monotonic() + LAST_WORDS_SECONDS
            while sent.alive > 1 and not sent.kept and time.monotonic() < deadline:  # the parent's is always open
                time.sleep(0.1)
                sent = upload_unsent(self._target.spool, self._target.uri)
            if sent.kept:
                raise ConnectionError(sent.kept[0][1])
        return store

    def _report(self, store: "Store") -> None:
        from pipeline.analysis.text.render import print_answer
        from pipeline.report import write_report
        from pipeline.tracking.store import AwayError

        if (parent := self._parent.id) is None:
            raise AwayError("MLflow has no run of the sweep yet.")
        for name, answer in write_report(store, self._name, parent).items():
            print_answer(answer, f"{self._name} {name}".strip(), Console(highlight=False))
        log.info("Figures, page and table: MLflow run %s, artifacts in report/ (make ui).", parent)
        if self._keeps_model:
            with self._or_later("The best trial's model has to wait: run the same command again then"):
                self._keep_model(store, parent)

    def _keep_model(self, store: "Store", parent: str) -> None:
        from pipeline.tracking.sweep import keep_best_model, read_runs

        kept = keep_best_model(store, parent, read_runs(store, self._name)[0], self._maximizes)
        if kept is None:
            log.warning("No trial stored a model, and so the sweep's run has none.")
            return
        best, better = kept
        which = f"the best trial but {better}, which stored none" if better else "the best trial"
        log.info("Model of %s, run %s: runs:/%s/model.", which, best, parent)


def _task_config(config: DictConfig) -> Config:
    """A cell's resolved configuration, without Hydra's own node."""
    with open_dict(config):
        copy = config.copy()
        copy.pop("hydra", None)
    return resolve(copy)
