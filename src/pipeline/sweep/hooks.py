"""The hooks through which a sweep of this project checks its request, tracks itself in MLflow, and reports."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from lr_study import Abandoned, FixedTrial, Hooks, Outcome, Progress, Sweep
from lr_study.worker_processes import dismiss_workers
from pipeline.config import Config, as_dict, flatten, resolve
from pipeline.config.checks import check_request, warn_linear_adam
from pipeline.distributed.torchrun import IF_LEFT_OVER, torchrun_rank
from pipeline.errors import RequestError
from pipeline.run import worker
from pipeline.sweep.preflight import check_buildable
from pipeline.tracking.check import check_sweep_name, check_target
from pipeline.tracking.target import TrackingTarget

if TYPE_CHECKING:
    from lr_study.space import Cell, Dimension
    from pipeline.tracking.store import Store

log = logging.getLogger("pipeline.sweep")
# Seconds between two lines of progress where there is no terminal.
PROGRESS_SECONDS = 5.0
# Seconds to wait for trials that have ended but are still sending records to MLflow.
SENDING_SECONDS = 10.0


class SweepHooks(Hooks):
    """The sweeper calls these methods in the order in which they stand; see `lr_study.Hooks`."""

    _reported_at = 0.0  # when the last line of progress was logged
    _confirming_since = 0.0  # when the search was done

    def check(self, cells: Sequence["Cell"], replicates: Sequence[Any]) -> None:
        """Refuse the sweep where any cell can't be trained: values, tracking target, data, model, optimizer."""
        if (place := torchrun_rank()) is not None:
            rank, size = place
            if rank > 0:
                worker.await_refusal_of_rank_0()
            raise RequestError(
                f"torchrun starts single runs, and -m asks for a sweep. {IF_LEFT_OVER}"
                f"\nElse leave torchrun out, and add runtime.workers={size}: each trial starts its own."
            )
        configs = [_task_config(cell.config, cell.dimensions) for cell in cells]
        name = cells[0].config.hydra.sweeper.name
        if name != configs[0].sweep.name:
            raise RequestError(
                f"hydra.sweeper.name={name}: a sweep has one name, and it is {configs[0].sweep.name}."
                "\nGive it with sweep.name=NAME alone."
            )
        check_sweep_name(name)
        if configs[0].resume is not None:
            raise RequestError("resume is for single runs.\nLeave it out: the same command again resumes a sweep.")
        direction = cells[0].config.hydra.sweeper.direction
        if direction not in ("minimize", ["minimize"]):
            raise RequestError(
                f"hydra.sweeper.direction={direction}: a run has one objective, and the lower it is the better."
                "\nLeave this key out."
            )
        key = cells[0].config.hydra.sweeper.replicate_key
        repeated = [replace(configs[0], **{key: value}) for value in replicates if key in vars(configs[0])]
        for config in [*configs, *repeated]:
            check_request(config)
        check_target(TrackingTarget(configs[0].tracking.uri, configs[0].tracking.experiment))
        check_buildable(configs, cells[0].config.hydra.launcher)
        warn_linear_adam(configs[0])

    def started(self, sweep: Sweep) -> Mapping[str, str]:
        """Open the sweep's parent run; returns the overrides that tell each trial its id and the sweep's name."""
        from pipeline.tracking.faults import StoreUnavailableError
        from pipeline.tracking.sweep import ParentRun, check_known

        config = _task_config(sweep.cells[0].config)
        self._name = sweep.name
        self._target = TrackingTarget(config.tracking.uri, config.tracking.experiment)
        if sweep.finished_trials:
            with contextlib.suppress(StoreUnavailableError):  # the report says what is missing
                check_known(self._target, sweep.name, sweep.finished_trials)
        self._parent = ParentRun(self._target, sweep.name)
        swept = {key for cell in sweep.cells for key in cell.choices} | {"optimizer.lr", "sweep.parent"}
        common = {key: value for key, value in flatten(as_dict(config)).items() if key not in swept}
        with contextlib.ExitStack() as until_open:
            until_open.push(self._parent)  # an error in this block closes the run
            self._parent.describe(common, [cell.name for cell in sweep.cells])
            parent_id = self._parent.id
            self._parent.check_accepted()
            until_open.pop_all()
        self._keeps_model = config.tracking.log_model == "best"
        log.info(
            "sweep %s: %d cell(s), %d trials, %d of them done",
            *(sweep.name, len(sweep.cells), sweep.total_trials, sweep.finished_trials),
        )
        self._started_at = time.monotonic()
        # While MLflow is away the parent has no id yet: the trials find it later, by the sweep's name.
        return {"sweep.name": f"'{sweep.name}'", "sweep.parent": parent_id or "null"}

    def wave_done(self, progress: Progress) -> None:
        """Show the progress: on a terminal by rewriting one line, elsewhere with a line now and then."""
        now = time.monotonic()
        failed = f", {progress.failed} failed" if progress.failed else ""
        line = f"{progress.finished}/{progress.total} trials{failed}, {now - self._started_at:.0f} s"
        is_last = progress.finished >= progress.total
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if is_last else "", file=sys.stderr, flush=True)
        elif is_last or now - self._reported_at > PROGRESS_SECONDS:
            self._reported_at = now
            log.info(line)

    def abandoned(self, trials: Sequence[Abandoned]) -> None:
        """Close the MLflow runs of trials whose process died."""
        from pipeline.tracking.sweep import close_abandoned

        with self._or_later("Runs of trials that died are closed later"):
            store = self._store_with_all_records()
            for trial in trials:
                close_abandoned(store, self._name, trial.study, trial.number, trial.status)

    def further_trials(self, sweep: Sweep) -> Sequence[FixedTrial]:
        """The next look's confirming trials, where the search was of the LR alone."""
        from pipeline.sweep.confirmation import confirming_trials

        budget = _task_config(sweep.cells[0].config).report.confirm
        searched = [[dimension.key for dimension in cell.dimensions] for cell in sweep.cells]
        self._confirming_since = self._confirming_since or time.monotonic()
        is_over = budget.seconds is not None and time.monotonic() - self._confirming_since > budget.seconds
        if not budget.looks or is_over or any(keys != ["optimizer.lr"] for keys in searched):
            return []
        with self._or_later("The confirmation has to wait: run the same command again then"):
            store, seed = self._store_with_all_records(), sweep.config.hydra.sweeper.seed
            return confirming_trials(store, self._name, sweep.cells, budget, seed)
        return []

    def ended(self, outcome: Outcome) -> None:
        """Report where the sweep is complete, and close the parent run."""
        dismiss_workers()  # they take a second or two to end, and the report can use their memory
        status = "interrupted"  # where a signal ends the report: the same command writes it
        try:
            if outcome.status == "complete":
                with self._or_later("The report has to wait: run the same command again then"):
                    self._report(self._store_with_all_records(), outcome.progress)
            status = outcome.status
        except Exception:
            status = "failed"
            raise
        finally:
            self._parent.end(status)

    @contextlib.contextmanager
    def _or_later(self, otherwise: str) -> Iterator[None]:
        """Where MLflow is away, leave the block and say what has to wait: the trials themselves are recorded."""
        from pipeline.tracking.faults import StoreUnavailableError

        try:
            yield
        except StoreUnavailableError as error:
            log.info("%s %s.", error, otherwise)  # no warning: the parent's run has warned already

    def _store_with_all_records(self) -> "Store":
        """The store, once all that the trials recorded is in it; StoreUnavailableError if it can't be sent now."""
        from pipeline.tracking.faults import store_errors
        from pipeline.tracking.spool.recovery import upload_unsent
        from pipeline.tracking.store import open_store

        with store_errors(self._target.uri):
            store = open_store(self._target.uri, self._target.experiment)
            sent = upload_unsent(self._target.spool, self._target.uri)
            deadline = time.monotonic() + SENDING_SECONDS
            while sent.alive > 1 and not sent.failed and time.monotonic() < deadline:  # 1 is the parent's own
                time.sleep(0.1)
                sent = upload_unsent(self._target.spool, self._target.uri)
            if sent.failed:
                raise sent.failed[0][1]
        return store

    def _report(self, store: "Store", progress: Progress) -> None:
        from pipeline.analysis.text.render import print_answer
        from pipeline.sweep.reporting import write_report
        from pipeline.tracking.faults import StoreUnavailableError
        from pipeline.tracking.sweep import copy_best_model, read_runs

        if (parent := self._parent.id) is None:
            raise StoreUnavailableError("MLflow has no run of the sweep yet.")
        finished = progress.finished - progress.failed
        for name, answer in write_report(store, self._name, parent, finished).items():
            print_answer(answer, f"{self._name} {name}".strip())
        log.info("Figures, page and table: MLflow run %s, artifacts in report/ (make ui).", parent)
        if self._keeps_model:
            with self._or_later("The best trial's model has to wait: run the same command again then"):
                kept = copy_best_model(store, parent, read_runs(store, self._name)[0])
                if kept is None:
                    log.warning("No trial stored a model, so the sweep's run has none.")
                    return
                run, better = kept
                which = f"the best trial but {better}, which stored none" if better else "the best trial"
                log.info("Model of %s, run %s: runs:/%s/model.", which, run, parent)


def _task_config(config: DictConfig, dimensions: Iterable["Dimension"] = ()) -> Config:
    """A cell's resolved configuration, without Hydra's own node.

    It has the keys that trials add, as `+optimizer.eps=interval(1e-9,1e-6)`, at the lowest value in `dimensions`.
    """
    with open_dict(config):
        copy = config.copy()
        copy.pop("hydra", None)
    for dimension in dimensions:
        if dimension.key.startswith("+"):
            OmegaConf.update(copy, dimension.key.lstrip("+"), dimension.low, force_add=True)
    return resolve(copy)
