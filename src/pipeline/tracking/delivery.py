"""Sending a spool to MLflow: from where it left off, in order, each thing once, however often it is interrupted."""

import functools
import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from pipeline.tracking.location import without_passwords
from pipeline.tracking.spool import Record, Spool
from pipeline.tracking.store import Store

log = logging.getLogger("pipeline.tracking")
# MLflow takes 1000 things in one request, at most 100 of them parameters and 100 tags; and so long a value.
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 800
PARAM_LENGTH = 500
# What MLflow answers to a request that will never be taken, however often it is repeated.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")


class Delivery:
    """Sends one spool; `send` may be called again and again while the spool grows.

    Everything may be sent twice and counts once: a run is looked for by its key before it is made where an earlier
    attempt may have made it; MLflow keeps one of two equal metrics (same key, step, time and value), parameters,
    tags and inputs; an artifact replaces itself.

    Args:
        spool: what to send; its lock is held by this process.
        connect: opens the store of the experiment with that name.
        is_new: whether the spool was begun by this process just now, so that no run can be there yet.
    """

    def __init__(self, spool: Spool, connect: Callable[[str], Store], is_new: bool = False) -> None:
        self.spool = spool
        self.refused: list[str] = []
        done = spool.progress()
        self.run_id: str | None = done.get("run_id")
        self._position: int = done.get("position", 0)
        self._connect = connect
        self._may_exist = not is_new
        self._was_there = False
        self._is_doubtful = False
        self._store: Store | None = None
        # Judged by what was read and sent, not by the file: the run may write its end in between.
        self._has_ended = not is_new and spool.has_ended()

    def send(self) -> bool:
        """Send what there is; True where the run has ended and all of it is sent.

        Raises:
            Exception: the store can't be reached now; try again later.
        """
        self.spool.sync()
        header = self.spool.header
        if self._store is None:
            self._store = self._connect(header["experiment"])
        if self.run_id is None:
            self._create(self._store, header)
        batch = _Batch()
        for record, position in self.spool.read(self._position):
            if not batch.take(record, self._was_there):
                self._send_batch(batch)
                batch = _Batch()
                if not batch.take(record, self._was_there):
                    self._attempt(functools.partial(self._send_single, record))
            batch.position = position
            self._has_ended = "end" in record
            if batch.is_empty:
                self._note(position)
        self._send_batch(batch)
        return self._has_ended

    def is_running(self) -> bool:
        """Whether MLflow has the run down as running still; to be asked after `send`."""
        assert self._store is not None
        assert self.run_id is not None
        return str(self._store.client.get_run(self.run_id).info.status) == "RUNNING"

    def _create(self, store: Store, header: Record) -> None:
        if self._may_exist or "find" in header:
            self.run_id = self._find(store, header)
            self._was_there = self.run_id is not None
        if self.run_id is None:
            tags = dict(header["tags"]) | {"run_key": header["key"]}
            if (parent := header.get("parent")) is None and (sweep := header.get("sweep")) is not None:
                parent = _parent_of(store, sweep)
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
            self._is_doubtful, self._may_exist = self._may_exist, True  # until MLflow has answered, nobody knows
            run = store.client.create_run(
                store.experiment_id, start_time=header["time"], run_name=header["name"], tags=tags
            )
            self.run_id = run.info.run_id
        elif "find" in header:
            store.client.update_run(self.run_id, status="RUNNING")
            self._log_batch(tags=[RunTag(k, v) for k, v in header["tags"].items()])
        self._note(0)

    def _find(self, store: Store, header: Record) -> str | None:
        """The run that an earlier attempt made; where a slow server made several, all but one are deleted."""
        # `find` is for what is one run however many processes began it: a sweep's parent.
        query = header.get("find", f"tags.run_key = '{header['key']}'")
        found = store.client.search_runs([store.experiment_id], query, order_by=["attributes.run_id"])
        ids = [str(run.info.run_id) for run in found]
        kept = self.run_id if self.run_id in ids else ids[0] if ids else None
        for run_id in ids if "find" not in header else ():
            if run_id != kept:
                store.client.delete_run(run_id)
        return kept

    def _send_batch(self, batch: "_Batch") -> None:
        if batch.is_empty:
            return
        self._attempt(functools.partial(self._log_batch, batch.metrics, batch.params, batch.tags))
        self._note(batch.position)

    def _send_single(self, record: Record) -> None:
        store, run_id = self._store, self.run_id
        assert store is not None
        assert run_id is not None
        # A forged record must neither send what lies outside of its folder nor write outside of the run's artifacts.
        paths = [record.get(key) or "" for key in ("file", "folder", "path")]
        if any(path.startswith("/") or ".." in path.split("/") for path in paths):
            log.warning("%s has a path that leaves its folder, and is left out.", self.spool.path)
        elif "text" in record:
            store.client.log_text(run_id, record["text"], record["path"])
        elif "file" in record:
            file = self.spool.files / record["file"]
            if file.is_dir() and not file.is_symlink():
                store.client.log_artifacts(run_id, str(file), record["folder"])
            elif file.is_file() and not file.is_symlink():
                store.client.log_artifact(run_id, str(file), record["folder"] or None)
        elif "dataset" in record:
            store.client.log_inputs(run_id, [_dataset_input(record["dataset"])])
        elif "reopened" in record:
            store.client.update_run(run_id, status="RUNNING")
            store.client.delete_tag(run_id, "status")
        elif "end" in record:
            self._log_batch(tags=[RunTag("status", record["end"])])
            store.client.set_terminated(run_id, record["mlflow_status"], end_time=record["time"])
            if self._is_doubtful:
                self._find(store, self.spool.header)

    def _attempt(self, send: Callable[[], None]) -> None:
        """Send; what MLflow will never take is put aside, for it would hold up everything behind it."""
        try:
            send()
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            reason = without_passwords(str(error).splitlines()[0])[:200]
            self.refused.append(reason)
            log.warning("MLflow refuses a part of run %s, which is left out (%s).", self.run_id, reason)

    def _log_batch(
        self, metrics: Iterable[Metric] = (), params: Iterable[Param] = (), tags: Iterable[RunTag] = ()
    ) -> None:
        assert self._store is not None
        assert self.run_id is not None
        self._store.client.log_batch(self.run_id, list(metrics), list(params), list(tags))

    def _note(self, position: int) -> None:
        assert self.run_id is not None
        self._position = position
        self.spool.note_progress(self.run_id, position)


class _Batch:
    """Neighbouring records that fit into one request."""

    def __init__(self) -> None:
        self.metrics: list[Metric] = []
        self.params: list[Param] = []
        self.tags: list[RunTag] = []
        self.position = 0

    @property
    def is_empty(self) -> bool:
        return not (self.metrics or self.params or self.tags)

    def take(self, record: Record, was_there: bool) -> bool:
        """Add what `record` holds; False where it doesn't fit, or is no such record."""
        if "key" in record or (was_there and record.get("if_new")):
            return True  # the header; or what a run that was there already was told when it was made
        if "metrics" in record:
            new = [Metric(key, value, record["time"], record["step"]) for key, value in record["metrics"].items()]
            if self.metrics and len(self.metrics) + len(new) > METRICS_PER_BATCH:
                return False
            self.metrics += new
        elif "params" in record:
            params = [Param(key, shortened(value)) for key, value in record["params"].items()]
            if self.params and len(self.params) + len(params) > PARAMS_PER_BATCH:
                return False
            self.params += params
        elif "tags" in record:
            self.tags += [RunTag(key, value) for key, value in record["tags"].items()]
        else:
            return False
        return True


class ParentUnsentError(Exception):
    """The sweep that a trial belongs to isn't in MLflow yet: its record has to be sent first."""


def find_sweep(sweep: str) -> str:
    """The query that finds a sweep's parent run."""
    return f"tags.pipeline = 'sweep' AND tags.sweep = '{sweep}'"


def _parent_of(store: Store, sweep: str) -> str:
    found = store.client.search_runs([store.experiment_id], find_sweep(sweep), max_results=1)
    if not found:
        raise ParentUnsentError(f"sweep {sweep} isn't there yet")
    return str(found[0].info.run_id)


def _dataset_input(given: dict[str, Any]) -> DatasetInput:
    dataset = Dataset(
        name=given["name"],
        digest=given["digest"],
        source_type="code",
        source=json.dumps({"source": given["source"]}),
        profile=json.dumps({"train_examples": given["examples"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def shortened(text: str) -> str:
    """A parameter's value as MLflow keeps it: cut short where it is too long (the config artifact has it whole)."""
    return text if len(text) <= PARAM_LENGTH else text[: PARAM_LENGTH - 1] + "…"
