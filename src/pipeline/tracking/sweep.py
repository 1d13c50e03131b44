"""A sweep in MLflow: its parent run, and its trials, which are the parent's children, as a table."""

import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import Metric, RunTag, ViewType
from mlflow.entities import Run as MlflowRun

from lr_study.masking import mask_passwords
from pipeline.analysis.replicate_table import REPLICATES, ReplicateRow, read_replicates
from pipeline.analysis.runs import Run
from pipeline.errors import RequestError
from pipeline.process import imports
from pipeline.tracking.artifact import read_artifact
from pipeline.tracking.faults import store_errors
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.spool.creation import find_sweep, sweep_query
from pipeline.tracking.spool.spool import list_spools, read_header
from pipeline.tracking.store import Store, open_client
from pipeline.tracking.table_row import as_runs, has_replicates
from pipeline.tracking.target import TrackingTarget

log = logging.getLogger("pipeline.tracking")
RUNS_PER_PAGE = 1000
# What a row of the table is made from.
NEEDED_PARAMS = {"batch", "objective", "optimizer.lr", "seed"}


class ParentRun(TrackedRun):
    """The parent run of the sweep `sweep`. A resumed sweep continues its parent run, and so is one row in MLflow."""

    def __init__(self, target: TrackingTarget, sweep: str) -> None:
        tags = {"pipeline": "sweep", "sweep": sweep, "status": "running"}
        super().__init__(target, sweep, tags, find=sweep_query(_quoted(sweep)))

    def describe(self, params: Mapping[str, Any], cells: Sequence[str]) -> None:
        """Log the trials' common params, the sweep's cells and the environment, unless the sweep is resumed."""
        self.log_params(params, if_new=True)
        self.log_text(json.dumps(cells, indent=2), "config/cells.json", if_new=True)
        imports.wait()  # Python imports a parser to read what is installed
        self.log_environment(if_new=True)

    def end(self, status: str) -> None:
        """Close the run as `complete`, `failed` or `interrupted`."""
        self.close(status, {"complete": "FINISHED", "failed": "FAILED"}.get(status, "KILLED"))


def check_known(target: TrackingTarget, sweep: str, finished: int) -> None:
    """Refuse to go on with a sweep, of which so many trials have `finished`, where MLflow has none of its runs.

    They are looked for by the sweep's name, not by the store's address, which may change (a tunnel's port, say).

    Raises:
        RequestError: neither MLflow nor a spool that waits for it has a run of the sweep.
        StoreUnavailableError: MLflow can't be asked now.
    """
    headers = [(path, read_header(path)) for path in list_spools(target.spool)]
    waiting = [(path, header) for path, header in headers if header.get("tags", {}).get("sweep") == sweep]
    if any(target.matches(header["store"], path.parent) for path, header in waiting):
        return
    with store_errors(target.uri):
        client = open_client(target.uri)
        found = None if client is None else client.get_experiment_by_name(target.experiment)
        query = f"tags.sweep = '{_quoted(sweep)}'"
        if client and found and client.search_runs([found.experiment_id], query, max_results=1):
            return
    raise RequestError(
        f"sweep {sweep}: {finished} of its trials have finished, and the experiment {target.experiment} in MLflow at"
        f" {mask_passwords(target.uri)} has no run of it."
        "\nUse the tracking.uri and tracking.experiment that it began with, or another sweep.name to begin anew."
    )


def find_parent(store: Store, sweep: str) -> MlflowRun | None:
    """Find the parent run of the sweep of that name; None if there is none."""
    with store_errors(store.uri):
        return find_sweep(store, _quoted(sweep))


def sweep_names(store: Store) -> list[str]:
    """List the names of the sweeps in the experiment, newest first."""
    with store_errors(store.uri):
        found = store.client.search_runs([store.experiment_id], "tags.pipeline = 'sweep'", max_results=100)
    return [run.data.tags["sweep"] for run in found]


def read_runs(store: Store, sweep: str) -> tuple[list[Run], dict[str | None, dict[str, str]]]:
    """Read a sweep's trials that have ended: the table of runs, and each one's params by run id.

    Raises:
        RequestError: there is no such sweep, or none of its trials has ended.
    """
    children = _children(store, sweep)
    if not children and find_parent(store, sweep) is None:
        known = sweep_names(store)[:5]
        hint = f"Sweeps here: {', '.join(known)}." if known else "There is none here yet: make study."
        raise RequestError(f"{sweep}: no sweep of that name in {store.uri}.\n{hint}")
    # A trial that was killed before it logged its params says nothing.
    ended = [child for child in children if child.data.tags.get("status") and child.data.params.keys() >= NEEDED_PARAMS]
    if not ended:
        raise RequestError(f"{sweep}: none of its runs has ended yet.")
    # The latest of each trial: where a damaged journal was cut back, Optuna gives the trials after the cut again.
    latest = {_trial_of(child): child for child in ended}.values()
    runs, params = [], {}
    for child in latest:
        try:
            runs += as_runs(child, _replicates_of(store, child) if has_replicates(child) else ())
        except ValueError as error:
            log.warning(
                "Run %s is left out, for it was edited in MLflow or isn't complete there: %s.", child.info.run_id, error
            )
        else:
            params[child.info.run_id] = child.data.params
    if not runs:
        raise RequestError(f"{sweep}: all of its runs were edited in MLflow.\nTake them from a table: --table FILE.")
    return runs, params


# By run id. A run that has ended doesn't change, and a sweep reads its runs after each look at the answer.
_replicates: dict[str, list[ReplicateRow]] = {}


def _replicates_of(store: Store, child: MlflowRun) -> list[ReplicateRow]:
    """Read the table of a run's replicates; ValueError if it is missing or was edited."""
    run_id = child.info.run_id
    if run_id not in _replicates:
        with store_errors(store.uri):
            _replicates[run_id] = read_replicates(read_artifact(store.client, run_id, REPLICATES))
    return _replicates[run_id]


def _trial_of(child: MlflowRun) -> tuple[str, ...]:
    """The address of a run's trial in Optuna; of a run that names none, its own id."""
    tags = child.data.tags
    return (tags["study"], tags["trial"]) if "study" in tags else (child.info.run_id,)


def _children(store: Store, sweep: str) -> list[MlflowRun]:
    query = f"tags.pipeline = 'trial' AND tags.sweep = '{_quoted(sweep)}'"
    order = ["attributes.start_time ASC"]

    runs: list[MlflowRun] = []
    token = None
    with store_errors(store.uri):
        while True:
            page = store.client.search_runs(
                [store.experiment_id], query, ViewType.ACTIVE_ONLY, RUNS_PER_PAGE, order, token
            )
            runs += page
            if not (token := page.token):
                return runs


def tag_stalled(store: Store, runs: Sequence[Run]) -> None:
    """Tag the runs that the analysis found to be stalled; some are only found by comparison with their neighbours."""
    with store_errors(store.uri):
        for run in runs:
            if run.status == "stalled" and run.run_id is not None:
                store.client.set_tag(run.run_id, "status", run.status)


def log_report(
    store: Store, run_id: str, folder: str, description: str, best_lrs: Mapping[str, Mapping[int, float]]
) -> None:
    """Log a report on the parent run: the files in `folder`, a description in Markdown, and the best LRs.

    `best_lrs` are by metric, of which there is one for each workload, and by batch size, which is the step. Only values
    that have changed since the last report are logged, since MLflow keeps the older values too.
    """
    with store_errors(store.uri):
        now = int(time.time() * 1000)
        changed = []
        for name, lrs in best_lrs.items():
            logged = sorted(store.client.get_metric_history(run_id, name), key=lambda metric: metric.timestamp)
            last = {metric.step: metric.value for metric in logged}
            changed += [Metric(name, lr, now, batch) for batch, lr in lrs.items() if last.get(batch) != lr]
        store.client.log_batch(run_id, metrics=changed, tags=[RunTag("mlflow.note.content", description)])
        store.client.log_artifacts(run_id, folder, "report")


def copy_best_model(store: Store, run_id: str, runs: Sequence[Run]) -> tuple[str, int] | None:
    """Copy to the parent run `run_id` the model of the best of a sweep's `runs` that stored one.

    Returns:
        The id of that run, and the number of better runs, which stored no model; None if no run stored one.
    """
    finished = [run for run in runs if run.status == "complete" and run.run_id is not None and run.value == run.value]
    ranked = sorted(finished, key=lambda run: run.value)
    with store_errors(store.uri):
        for better, run in enumerate(ranked):
            assert run.run_id is not None
            if not store.client.list_artifacts(run.run_id, "model"):
                continue
            with tempfile.TemporaryDirectory() as scratch:
                folder = store.client.download_artifacts(run.run_id, "model", scratch)
                store.client.log_artifacts(run_id, folder, "model")
            store.client.set_tag(run_id, "model_of", run.run_id)
            return run.run_id, better
    return None


def close_abandoned(store: Store, sweep: str, study: str, trial: int, status: str) -> None:
    """Close the run of a trial whose process died, as `lost`, `interrupted` or `failed`.

    Even a run that had just finished is closed so: the trial is repeated.
    """
    query = f"tags.sweep = '{_quoted(sweep)}' AND tags.study = '{_quoted(study)}' AND tags.trial = '{trial}'"
    with store_errors(store.uri):
        for run in store.client.search_runs([store.experiment_id], query):
            tags = {"status": status} | ({"error": "its process died"} if status == "failed" else {})
            store.client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            store.client.set_terminated(run.info.run_id, "FAILED" if status == "failed" else "KILLED")


def _quoted(name: str) -> str:
    if "'" in name:
        raise RequestError(f"sweep.name={name}: a name can't have quotes in it.")
    return name
