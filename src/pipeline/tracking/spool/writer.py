"""The requests that write to one run in MLflow, and what MLflow's errors mean for what is sent next."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException, RestException

from pipeline.tracking.spool.creation import RunGoneError
from pipeline.tracking.spool.spool import Record, Spool
from pipeline.tracking.store import NOT_FOUND, Store, check_active

log = logging.getLogger("pipeline.tracking")
# MLflow's answers to a request that it will never take, however often it is repeated.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", NOT_FOUND, "INVALID_STATE")
Item = Metric | Param | RunTag
# What MLflow's servers take in one request, and in one param's value: https://mlflow.org/docs/latest/api_reference/
# rest-api.html, "Log Batch" and "Log Param".
MOST_ITEMS, MOST_METRICS, MOST_PARAMS_OR_TAGS, LONGEST_PARAM = 1000, 1000, 100, 6000


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
            client.log_inputs(self.run_id, [_dataset_input(record["dataset"])])
        elif "reopened" in record:
            client.update_run(self.run_id, status="RUNNING")
            for tag in {"status", "error"} & self.get_run().data.tags.keys():
                client.delete_tag(self.run_id, tag)
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
        """Ask MLflow for the run; raise RunGoneError if it isn't there any more."""
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
            RequestError: it will once the run's experiment, which was deleted, is restored.
        """
        if not isinstance(error, MlflowException) or error.error_code not in REFUSALS:
            return False
        # An answer without JSON comes from a proxy on the way to MLflow, which somebody may mend.
        if error.error_code == "BAD_REQUEST" and not isinstance(error, RestException):
            return False
        run = self.get_run()
        if run.info.lifecycle_stage == LifecycleStage.DELETED:
            check_active(self.store.client.get_experiment(run.info.experiment_id), self.store.uri)
            raise RunDeletedError(f"run {self.run_id} was deleted")
        return True


def items_of(record: Record) -> list[Item]:
    """Return the metrics, params and tags in `record`."""
    if "key" in record:
        return []  # the header, whose tags are set when the run is created
    if "metrics" in record:
        return [Metric(key, value, record["time"], record["step"]) for key, value in record["metrics"].items()]
    if "params" in record:
        return [Param(key, _shortened(value)) for key, value in record["params"].items()]
    if "end" in record:
        return [RunTag("status", record["end"])]  # in one request with the last metrics
    return [RunTag(key, value) for key, value in record.get("tags", {}).items()]


def fit_one_request(items: Sequence[Item]) -> bool:
    """Whether MLflow takes `items` in one request."""
    counts = Counter(type(item) for item in items)
    return (
        len(items) <= MOST_ITEMS
        and counts[Metric] <= MOST_METRICS
        and max(counts[Param], counts[RunTag]) <= MOST_PARAMS_OR_TAGS
    )


def _shortened(text: str) -> str:
    """Cut a parameter's value to MLflow's limit; the artifact `config/config.yaml` has it whole."""
    return text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - 1] + "…"


def _dataset_input(given: dict[str, Any]) -> DatasetInput:
    dataset = Dataset(
        name=given["name"],
        digest=given["digest"],
        source_type="code",
        source=json.dumps({"source": given["source"]}),
        profile=json.dumps({"train_examples": given["examples"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _leaves_its_folder(record: Record) -> bool:
    """Whether a forged record would send a file from outside its folder, or write outside the run's artifacts."""
    paths = [record.get(key) or "" for key in ("file", "folder", "path")]
    return any(path.startswith("/") or ".." in path.split("/") for path in paths)
