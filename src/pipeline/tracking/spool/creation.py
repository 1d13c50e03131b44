"""Finding or making the MLflow run that a spool is the record of."""

from mlflow.entities import Run as MlflowRun
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from pipeline.tracking.spool.record import Record
from pipeline.tracking.store import Store

NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"


class GoneError(Exception):
    """The run, or its experiment, isn't in MLflow any more: the server came back with another database."""


class ParentUnsentError(Exception):
    """The sweep that a trial belongs to isn't in MLflow yet: its record has to be sent first."""


def find_sweep(sweep: str) -> str:
    """The query that finds a sweep's parent run."""
    return f"tags.pipeline = 'sweep' AND tags.sweep = '{sweep}'"


def find_run(store: Store, header: Record, known: str | None = None) -> MlflowRun | None:
    """The run that an earlier attempt made; where a slow server made several, all but one are deleted.

    Args:
        store: where to look.
        header: the spool's.
        known: the id of the run to keep, where one of several is in use.
    """
    # `find` is for what is one run however many processes began it: a sweep's parent.
    query = header.get("find", f"tags.run_key = '{header['key']}'")
    found = store.client.search_runs([store.experiment_id], query, order_by=["attributes.run_id"])
    kept = next((run for run in found if run.info.run_id == known), found[0] if found else None)
    for run in found if "find" not in header else ():
        if run is not kept:
            store.client.delete_run(run.info.run_id)
    return kept


def make_run(store: Store, header: Record, parent_by_name: bool) -> str:
    """Make the run, and return its id.

    Args:
        store: where.
        header: the spool's.
        parent_by_name: look for the parent by the sweep's name, whatever id the header has for it.

    Raises:
        ParentUnsentError: there is no such sweep yet.
        GoneError: there is no such experiment any more.
    """
    tags = dict(header["tags"]) | {"run_key": header["key"]}
    parent, sweep = header.get("parent"), header.get("sweep")
    if sweep is not None and (parent is None or parent_by_name):
        parent = _parent_of(store, sweep)
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    try:
        run = store.client.create_run(
            store.experiment_id, start_time=header["time"], run_name=header["name"], tags=tags
        )
    except MlflowException as error:
        if error.error_code != NOT_FOUND:
            raise
        raise GoneError(f"experiment {header['experiment']} isn't in MLflow any more") from error
    return str(run.info.run_id)


def open_again(store: Store, run_id: str, header: Record) -> None:
    """Have the run go on that another process began."""
    store.client.update_run(run_id, status="RUNNING")
    store.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in header["tags"].items()])


def _parent_of(store: Store, sweep: str) -> str:
    found = store.client.search_runs([store.experiment_id], find_sweep(sweep), max_results=1)
    if not found:
        raise ParentUnsentError(f"sweep {sweep} isn't there yet")
    return str(found[0].info.run_id)
