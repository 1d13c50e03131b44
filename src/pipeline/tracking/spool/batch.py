"""What goes to MLflow in one request, made of a spool's records."""

import json
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from pipeline.tracking.spool.record import Record

# MLflow takes 1000 things in one request, at most 100 of them parameters and 100 tags.
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 800
Item = Metric | Param | RunTag
KINDS = {Metric: "metric", Param: "parameter", RunTag: "tag"}


class Batch:
    """Neighbouring records that fit into one request.

    Attributes:
        position: in the spool, after the last of them; where the first would begin while there is none.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        self._metrics: list[Metric] = []
        self._params: list[Param] = []
        self._tags: list[RunTag] = []

    @property
    def items(self) -> list[Item]:
        """All that is in it."""
        return [*self._metrics, *self._params, *self._tags]

    def add_tag(self, key: str, value: str) -> None:
        """Add a tag that is no record's own."""
        self._tags.append(RunTag(key, value))

    def take(self, record: Record, was_there: bool) -> bool:
        """Add what `record` holds; False where it doesn't fit, or is no such record."""
        if "key" in record or (was_there and record.get("if_new")):
            return True  # the header; or what a run that was there already was told when it was made
        if "metrics" in record:
            new = [Metric(key, value, record["time"], record["step"]) for key, value in record["metrics"].items()]
            if self._metrics and len(self._metrics) + len(new) > METRICS_PER_BATCH:
                return False
            self._metrics += new
        elif "params" in record:
            params = [Param(key, shortened(value)) for key, value in record["params"].items()]
            if self._params and len(self._params) + len(params) > PARAMS_PER_BATCH:
                return False
            self._params += params
        elif "tags" in record:
            self._tags += [RunTag(key, value) for key, value in record["tags"].items()]
        else:
            return False
        return True


def name_of(item: Item) -> str:
    """What a message calls it."""
    return f"the {KINDS[type(item)]} {item.key}"


def shortened(text: str) -> str:
    """A parameter's value as MLflow keeps it: cut short where it is too long (the config artifact has it whole)."""
    return text if len(text) <= MAX_PARAM_VAL_LENGTH else text[: MAX_PARAM_VAL_LENGTH - 1] + "…"


def dataset_input(given: dict[str, Any]) -> DatasetInput:
    """A record's data set as MLflow's own input."""
    dataset = Dataset(
        name=given["name"],
        digest=given["digest"],
        source_type="code",
        source=json.dumps({"source": given["source"]}),
        profile=json.dumps({"train_examples": given["examples"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
