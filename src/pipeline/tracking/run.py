"""One training, one MLflow run."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from pipeline.tracking import provenance
from pipeline.tracking.store import Store

# MLflow's limits on one request and on one value.
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 1000
PARAM_LENGTH = 500
# Metrics wait at most this long, in seconds, before they are sent together.
FLUSH_SECONDS = 5.0


class TrackedRun:
    """An open MLflow run: metrics are gathered and sent in batches, and however the block ends, it is closed.

    Use it as a context manager. An exception closes it as FAILED, an interruption as KILLED; `status` is the
    tag that says how the training itself ended.
    """

    def __init__(self, store: Store, name: str, tags: Mapping[str, str], parent: str | None = None) -> None:
        self.store = store
        self.status = "complete"
        self._waiting: list[Metric] = []
        self._sent_at = time.monotonic()
        own = {"mlflow.source.name": provenance.command_line(), "mlflow.source.type": "LOCAL"}
        if parent is not None:
            own["mlflow.parentRunId"] = parent
        run = store.client.create_run(store.experiment_id, run_name=name, tags={**own, **tags})
        self.id: str = run.info.run_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close(self.status, "FINISHED")
        elif issubclass(kind, Exception):
            self.close("failed", "FAILED")
        else:
            self.close("interrupted", "KILLED")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log flat parameters; a value longer than MLflow keeps is cut short (the config artifact has it whole)."""
        entities = [Param(key, _short(value)) for key, value in params.items()]
        for start in range(0, len(entities), PARAMS_PER_BATCH):
            self.store.client.log_batch(self.id, params=entities[start : start + PARAMS_PER_BATCH])

    def log_dataset(self, name: str, digest: str, source: str, examples: int) -> None:
        """Record the data set as MLflow's own input."""
        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="code",
            source=json.dumps({"source": source}),
            profile=json.dumps({"train_examples": examples}),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self.store.client.log_inputs(self.id, [DatasetInput(dataset, tags)])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Take metrics at `step` (the evaluation, counted from 1); they go out in batches."""
        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step) for key, value in metrics.items()]
        if time.monotonic() - self._sent_at > FLUSH_SECONDS:
            self._flush()

    def log_text(self, text: str, path: str) -> None:
        """Store `text` as the artifact `path`."""
        self.store.client.log_text(self.id, text, path)

    def log_file(self, file: Path, folder: str) -> None:
        """Store a copy of `file` in the artifact folder `folder`."""
        self.store.client.log_artifact(self.id, str(file), folder or None)

    def log_environment(self) -> None:
        """Store packages, machine and, where the tree was dirty, the difference to its commit."""
        commit, difference = provenance.git_state()
        self.log_text(provenance.installed_packages(), "environment/requirements.txt")
        self.log_text(json.dumps(provenance.machine(), indent=2), "environment/machine.json")
        if commit:
            self.set_tags({"mlflow.source.git.commit": commit})
        if difference:
            self.log_text(difference, "source/git.diff")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self.store.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])

    def close(self, status: str, mlflow_status: str) -> None:
        """Send what waits and end the run."""
        self._flush(tags={"status": status})
        self.store.client.set_terminated(self.id, mlflow_status)

    def _flush(self, tags: Mapping[str, str] | None = None) -> None:
        entities = [RunTag(key, value) for key, value in (tags or {}).items()]
        first, rest = self._waiting[:METRICS_PER_BATCH], self._waiting[METRICS_PER_BATCH:]
        self.store.client.log_batch(self.id, metrics=first, tags=entities)
        while rest:
            first, rest = rest[:METRICS_PER_BATCH], rest[METRICS_PER_BATCH:]
            self.store.client.log_batch(self.id, metrics=first)
        self._waiting = []
        self._sent_at = time.monotonic()


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= PARAM_LENGTH else text[: PARAM_LENGTH - 1] + "…"
