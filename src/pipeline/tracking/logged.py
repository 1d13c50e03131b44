"""Reading back what a run logged."""

import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from lr_study.masking import mask_passwords
from pipeline.errors import RequestError
from pipeline.tracking.remote import check_not_local, no_local_artifacts
from pipeline.tracking.run import config_digest
from pipeline.tracking.spool.background import reason_of
from pipeline.tracking.store import open_for_reading
from pipeline.tracking.target import is_server

RUN_ID = re.compile(r"[0-9a-f]{32}")
# Metric, then step, then value.
History = dict[str, dict[int, float]]


@dataclass(frozen=True)
class LoggedRun:
    """What a run left in MLflow.

    Attributes:
        run_id, experiment, status: its id, its experiment's name, and the tag that says how it ended.
        config: the text of `config/config.yaml`.
        params, tags: as MLflow holds them.
        history: every metric at every step.
        dataset: (name, digest) of its data, or None.
        packages, machine, difference: the environment's files, from the sweep's run where it belongs to a sweep;
            empty where there are none.
    """

    run_id: str
    experiment: str
    status: str
    config: str
    params: dict[str, str]
    tags: dict[str, str]
    history: History
    dataset: tuple[str, str] | None
    packages: str
    machine: str
    difference: str

    @property
    def commit(self) -> str | None:
        """The git commit it was made at."""
        return self.tags.get("mlflow.source.git.commit")

    @property
    def is_sealed(self) -> bool:
        """Whether the configuration was checked against a digest; without one an edited one looks like any other."""
        return "config_digest" in self.tags


def read_logged(uri: str, run_id: str, trusted: Collection[str] = ()) -> LoggedRun:
    """Read the run `run_id` from the store at `uri`; of a server's, folders of this machine only below `trusted` ones.

    Raises:
        RequestError: no such run, not one of ours, its configuration is missing or was edited, or the store can't
            be read, or it is a server that would have its files in a folder of this machine.
    """
    if not RUN_ID.fullmatch(run_id):
        raise RequestError(
            f"{run_id}: not a run id, which has 32 digits and letters a to f."
            "\nTake it from MLflow's page of the run, or from the last line of a run."
        )
    client = open_for_reading(uri)
    with readable(uri), no_local_artifacts(uri, trusted):
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise RequestError(
                f"{run_id}: there is no such run in {mask_passwords(uri)}.\nName its store: --tracking-uri."
            ) from None
        tags = dict(run.data.tags)
        if tags.get("pipeline") not in ("run", "trial"):
            what = "a sweep; name one of its runs" if tags.get("pipeline") == "sweep" else "not a run of this project"
            raise RequestError(f"{run_id}: this is {what}.")
        config = _artifact(client, run_id, "config/config.yaml")
        if not config:
            raise RequestError(f"{run_id}: its config/config.yaml is missing, and nothing else says all that it was.")
        if tags.get("config_digest", config_digest(config)) != config_digest(config):
            raise RequestError(
                f"{run_id}: its config/config.yaml was edited after the run (its digest is not the logged one)."
                "\nA run of the edited values is another run: give them to pipeline.train."
            )
        inputs = run.inputs.dataset_inputs if run.inputs is not None else []
        dataset = (inputs[0].dataset.name, inputs[0].dataset.digest) if inputs else None
        gathered = tags.get("mlflow.parentRunId", run_id)
        if gathered != run_id:
            parent = client.get_run(gathered).data.tags
            tags = {k: v for k, v in parent.items() if k == "mlflow.source.git.commit"} | tags
        experiment = client.get_experiment(run.info.experiment_id)
        if is_server(uri):
            check_not_local(experiment.artifact_location, trusted)  # where the repetition's files will be
        return LoggedRun(
            run_id=run_id,
            experiment=experiment.name,
            status=tags.get("status", "running"),
            config=config,
            params=dict(run.data.params),
            tags=tags,
            history=_history(client, run_id, run.data.metrics),
            dataset=dataset,
            packages=_artifact(client, gathered, "environment/requirements.txt"),
            machine=_artifact(client, gathered, "environment/machine.json"),
            difference=_artifact(client, gathered, "source/git.diff"),
        )


def _history(client: MlflowClient, run_id: str, metrics: Iterator[str] | dict[str, float]) -> History:
    return {key: {m.step: m.value for m in client.get_metric_history(run_id, key)} for key in metrics}


def _artifact(client: MlflowClient, run_id: str, path: str) -> str:
    """The text of an artifact whose path is ours, or nothing where there is none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = Path(client.download_artifacts(run_id, path, folder))
        except (MlflowException, OSError) as error:
            if _is_missing(client, run_id, path):
                return ""
            raise error
        return file.read_bytes().decode("utf-8", errors="replace")  # with the ends of lines as they were


def _is_missing(client: MlflowClient, run_id: str, path: str) -> bool:
    return path not in {file.path for file in client.list_artifacts(run_id, path.rsplit("/", 1)[0])}


@contextmanager
def readable(uri: str) -> Iterator[None]:
    """Turn whatever a store that can't be read has to say into a request that was wrong."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:  # of requests, urllib3, SQLAlchemy, MLflow …
        raise RequestError(
            f"{mask_passwords(uri)}: MLflow can't be read there ({reason_of(error)})."
            "\nStart its server, or name another store: --tracking-uri."
        ) from None
