"""The requests that write to one run in MLflow, and what MLflow's errors mean for what is sent next."""

import logging
from collections.abc import Sequence

from mlflow.entities import Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException, RestException

from pipeline.tracking.spool.batch import Item, dataset_input
from pipeline.tracking.spool.creation import RunGoneError
from pipeline.tracking.spool.spool import Record, Spool
from pipeline.tracking.store import NOT_FOUND, Store

log = logging.getLogger("pipeline.tracking")
# MLflow's answers to a request that it will never take, however often it is repeated.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", NOT_FOUND, "INVALID_STATE")


class RunDeletedError(Exception):
    """Somebody has deleted the run in MLflow."""


class RunWriter:
    """Writes the records of `spool` to the run `run_id` in `store`."""

    def __init__(self, store: Store, run_id: str, spool: Spool) -> None:
        self.store = store
        self.run_id = run_id
        self._spool = spool

    def log(self, items: Sequence[Item]) -> None:
        """Log metrics, params and tags in one request."""
        self.store.client.log_batch(
            self.run_id,
            metrics=[item for item in items if isinstance(item, Metric)],
            params=[item for item in items if isinstance(item, Param)],
            tags=[item for item in items if isinstance(item, RunTag)],
        )

    def write(self, record: Record) -> None:
        """Write what takes a request of its own: a data set, an artifact, or the run's status."""
        client = self.store.client
        if "dataset" in record:
            client.log_inputs(self.run_id, [dataset_input(record["dataset"])])
        elif "reopened" in record:
            client.update_run(self.run_id, status="RUNNING")
            client.delete_tag(self.run_id, "status")
        elif "end" in record:
            client.set_terminated(self.run_id, record["mlflow_status"], end_time=record["time"])
        elif _leaves_its_folder(record):
            log.warning("%s names a path outside of its folder, which is skipped.", self._spool.path)
        elif "text" in record:
            client.log_text(self.run_id, record["text"], record["path"])
        else:
            file = self._spool.files / record["file"]
            if file.is_dir() and not file.is_symlink():
                client.log_artifacts(self.run_id, str(file), record["folder"])
            elif file.is_file() and not file.is_symlink():
                client.log_artifact(self.run_id, str(file), record["folder"] or None)

    def get_run(self) -> MlflowRun:
        """Ask MLflow for the run.

        Raises:
            RunGoneError: it isn't there any more.
        """
        try:
            return self.store.client.get_run(self.run_id)
        except MlflowException as error:
            if error.error_code != NOT_FOUND:
                raise
            raise RunGoneError(f"run {self.run_id} isn't in MLflow any more") from error

    def is_refusal(self, error: Exception) -> bool:
        """Whether `error` says that MLflow will never take the request.

        Raises:
            RunGoneError, RunDeletedError: MLflow will take nothing more for this run.
        """
        if not isinstance(error, MlflowException) or error.error_code not in REFUSALS:
            return False
        # An answer without JSON comes from a proxy on the way to MLflow, which somebody may mend.
        if error.error_code == "BAD_REQUEST" and not isinstance(error, RestException):
            return False
        if self.get_run().info.lifecycle_stage == "deleted":
            raise RunDeletedError(f"run {self.run_id} was deleted")
        return True


def _leaves_its_folder(record: Record) -> bool:
    """Whether a forged record would send a file from outside its folder, or write outside the run's artifacts."""
    paths = [record.get(key) or "" for key in ("file", "folder", "path")]
    return any(path.startswith("/") or ".." in path.split("/") for path in paths)
