"""A spool's records as MLflow's own entities, and how many of these fit into one request."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.validation import (
    MAX_ENTITIES_PER_BATCH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
)

from pipeline.tracking.spool.spool import Record

Item = Metric | Param | RunTag
LIMITS = {Metric: MAX_METRICS_PER_BATCH, Param: MAX_PARAMS_TAGS_PER_BATCH, RunTag: MAX_PARAMS_TAGS_PER_BATCH}
KINDS = {Metric: "metric", Param: "parameter", RunTag: "tag"}


def items_of(record: Record) -> list[Item]:
    """Return the metrics, params and tags in `record`."""
    if "key" in record:
        return []  # the header, whose tags are set when the run is created
    if "metrics" in record:
        return [Metric(key, value, record["time"], record["step"]) for key, value in record["metrics"].items()]
    if "params" in record:
        return [Param(key, shortened(value)) for key, value in record["params"].items()]
    if "end" in record:
        return [RunTag("status", record["end"])]  # in one request with the last metrics
    return [RunTag(key, value) for key, value in record.get("tags", {}).items()]


def fit_one_request(items: Sequence[Item]) -> bool:
    """Whether MLflow takes `items` in one request."""
    counts = Counter(type(item) for item in items)
    return len(items) <= MAX_ENTITIES_PER_BATCH and all(counts[kind] <= limit for kind, limit in LIMITS.items())


def name_of(item: Item) -> str:
    """Return what a message calls `item`."""
    return f"the {KINDS[type(item)]} {item.key}"


def shortened(text: str) -> str:
    """Cut a parameter's value to MLflow's limit; the artifact `config/config.yaml` has it whole."""
    return text if len(text) <= MAX_PARAM_VAL_LENGTH else text[: MAX_PARAM_VAL_LENGTH - 1] + "…"


def dataset_input(given: dict[str, Any]) -> DatasetInput:
    """Return a record's data set as MLflow's input."""
    dataset = Dataset(
        name=given["name"],
        digest=given["digest"],
        source_type="code",
        source=json.dumps({"source": given["source"]}),
        profile=json.dumps({"train_examples": given["examples"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
