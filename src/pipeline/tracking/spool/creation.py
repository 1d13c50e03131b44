"""Find or create the MLflow run that a spool is the record of."""

from mlflow.entities import Run as MlflowRun
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from pipeline.tracking.spool.spool import Record
from pipeline.tracking.store import NOT_FOUND, Store, check_active


class RunGoneError(Exception):
    """The run, or its experiment, isn't in MLflow any more: the server has another database now."""


def sweep_query(sweep: str) -> str:
    """Return the query that finds a sweep's parent run."""
    return f"tags.pipeline = 'sweep' AND tags.sweep = '{sweep}'"


def find_sweep(store: Store, sweep: str) -> MlflowRun | None:
    """Find the parent run of the sweep of that name."""
    found = store.client.search_runs([store.experiment_id], sweep_query(sweep), max_results=1)
    return found[0] if found else None


def find_run(store: Store, header: Record) -> MlflowRun | None:
    """Find the run that an earlier attempt created, or, for a sweep's parent, that any process created."""
    found = _search(store, header)
    if found:
        delete_duplicates(store, header, found[0].info.run_id)
    return found[0] if found else None


def delete_duplicates(store: Store, header: Record, run_id: str) -> None:
    """Delete all of a spool's runs except `run_id`: a slow server may create one for each attempt."""
    # A header with a query is a sweep's parent, which all processes of the sweep share.
    if "find" not in header:
        for run in _search(store, header):
            if run.info.run_id != run_id:
                store.client.delete_run(run.info.run_id)


def create_run(store: Store, header: Record) -> str:
    """Create the run, and return its id.

    Raises:
        LookupError: the trial's sweep isn't in MLflow yet: the sweep's spool has to be sent first.
        RunGoneError: the experiment isn't in MLflow any more.
        RequestError: the experiment was deleted, and can be restored.
    """
    tags = dict(header["tags"]) | {"run_key": header["key"]}
    if "parent" in header:
        tags["mlflow.parentRunId"] = header["parent"]
    elif "sweep" in header:
        parent = find_sweep(store, header["sweep"])
        if parent is None:
            check_active(store.client.get_experiment(store.experiment_id), store.uri)
            raise LookupError(f"sweep {header['sweep']} isn't in MLflow yet")
        tags["mlflow.parentRunId"] = parent.info.run_id
    try:
        run = store.client.create_run(
            store.experiment_id, start_time=header["time"], run_name=header["name"], tags=tags
        )
    except MlflowException as error:
        if error.error_code != NOT_FOUND:
            check_active(store.client.get_experiment(store.experiment_id), store.uri)
            raise
        raise RunGoneError(f"experiment {header['experiment']} isn't in MLflow any more") from error
    return str(run.info.run_id)


def reopen_run(store: Store, run_id: str, header: Record) -> None:
    """Mark a run as running again after another process had ended it, and set the header's tags."""
    store.client.update_run(run_id, status="RUNNING")
    store.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in header["tags"].items()])


def _search(store: Store, header: Record) -> list[MlflowRun]:
    query = header.get("find", f"tags.run_key = '{header['key']}'")
    # In a fixed order, so that every attempt keeps the same run.
    return list(store.client.search_runs([store.experiment_id], query, order_by=["attributes.run_id"]))
