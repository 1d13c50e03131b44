"""Read back what a run logged."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from lr_study.masking import mask_passwords
from pipeline.analysis.replicate_table import REPLICATES
from pipeline.errors import RequestError
from pipeline.tracking.artifact import read_artifact
from pipeline.tracking.faults import read_errors
from pipeline.tracking.remote import check_not_local, no_local_artifacts
from pipeline.tracking.run import config_digest
from pipeline.tracking.store import NOT_FOUND, open_for_reading
from pipeline.tracking.target import is_server

COMMIT = "mlflow.source.git.commit"


@dataclass(frozen=True)
class LoggedRun:
    """What MLflow holds of a run; texts of files are empty if there are none."""

    run_id: str
    experiment: str
    status: str
    config: str  # the text of config/config.yaml
    params: dict[str, str]
    tags: dict[str, str]
    history: dict[str, dict[int, float]]  # by metric, its value at each step
    dataset: tuple[str, str] | None  # name and digest
    # The texts of the environment's files, which a trial's sweep has.
    packages: str
    machine: str
    difference: str
    replicates: str = ""  # the text of replicates.csv

    @property
    def commit(self) -> str | None:
        """The git commit of its source code."""
        return self.tags.get(COMMIT)


def read_logged(uri: str, run_id: str, trusted: Collection[str] = ()) -> LoggedRun:
    """Read the run `run_id` from the store at `uri`, which may name `trusted` folders of this machine for its files.

    Raises:
        RequestError: there is no such run, it isn't one of this project, its configuration is missing or was edited,
            the store can't be read, or a server names a folder that isn't trusted.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise RequestError(
            f"{run_id}: not a run id, which has 32 digits and letters a to f."
            "\nTake it from MLflow's page of the run, or from the last line of a run."
        )
    client = open_for_reading(uri)
    with read_errors(uri), no_local_artifacts(uri, trusted):
        run = _find_run(client, uri, run_id)
        tags = dict(run.data.tags)
        config = _read_config(client, run_id, tags)
        inputs = run.inputs.dataset_inputs if run.inputs is not None else []
        # A sweep logs the environment once, on its parent run.
        environment_id = tags.get("mlflow.parentRunId", run_id)
        if COMMIT in (parent := client.get_run(environment_id).data.tags):
            tags.setdefault(COMMIT, parent[COMMIT])
        experiment = client.get_experiment(run.info.experiment_id)
        if is_server(uri):
            check_not_local(experiment.artifact_location, trusted)  # where a repetition's files will lie
        return LoggedRun(
            run_id=run_id,
            experiment=experiment.name,
            status=tags.get("status", "running"),
            config=config,
            params=dict(run.data.params),
            tags=tags,
            history={
                key: {metric.step: metric.value for metric in client.get_metric_history(run_id, key)}
                for key in run.data.metrics
            },
            dataset=(inputs[0].dataset.name, inputs[0].dataset.digest) if inputs else None,
            replicates=read_artifact(client, run_id, REPLICATES) if "-" in run.data.params.get("seed", "") else "",
            packages=read_artifact(client, environment_id, "environment/requirements.txt"),
            machine=read_artifact(client, environment_id, "environment/machine.json"),
            difference=read_artifact(client, environment_id, "source/git.diff"),
        )


def _find_run(client: MlflowClient, uri: str, run_id: str) -> MlflowRun:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != NOT_FOUND:
            raise
        raise RequestError(
            f"{run_id}: there is no such run in {mask_passwords(uri)}.\nName its store: --tracking-uri."
        ) from None
    kind = run.data.tags.get("pipeline")
    if kind not in ("run", "trial"):
        what = "a sweep; name one of its runs" if kind == "sweep" else "not a run of this project"
        raise RequestError(f"{run_id}: this is {what}.")
    return run


def _read_config(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> str:
    config = read_artifact(client, run_id, "config/config.yaml")
    if not config:
        raise RequestError(f"{run_id}: its config/config.yaml is missing, without which it can't be repeated.")
    if tags.get("config_digest", config_digest(config)) != config_digest(config):
        raise RequestError(
            f"{run_id}: its config/config.yaml was edited after the run (its digest is not the logged one)."
            "\nTo train with the edited values, give them to pipeline.train."
        )
    return config
