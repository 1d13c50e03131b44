"""A run that an earlier version logged is still reproduced.

`stored_run.json` holds what `python -m pipeline.train budget.epochs=2 batch=128 optimizer=adamw
'noise_scale.epochs=[-1]' runtime.threads=1` left in MLflow at version 0.1.0, before the configuration became typed.
"""

import json
from pathlib import Path

import pytest
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

from pipeline import reproduce
from pipeline.config import as_dict, as_yaml
from pipeline.reproduction.restore import restore_config
from pipeline.tracking.logged import read_logged
from pipeline.tracking.store import open_store

# What has come since, or has another default: how a sweep is judged, and how replicates train.
NEW_KEYS = ("margin", "confirm", "looks", "runs", "seconds", "stack", "base_lr_tuned")
STORED = json.loads(Path(__file__).with_name("stored_run.json").read_text())


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """(the store's URI, the run's id) of the stored run, put into a store of its own."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    store = open_store(uri, "lr-batch")
    run_id = store.client.create_run(store.experiment_id).info.run_id
    store.client.log_batch(
        run_id,
        params=[Param(key, value) for key, value in STORED["params"].items()],
        metrics=[Metric(key, value, 0, step) for key, values in STORED["metrics"].items() for step, value in values],
        tags=[RunTag(key, value) for key, value in STORED["tags"].items()],
    )
    store.client.log_inputs(run_id, [DatasetInput(Dataset(**dataset)) for dataset in STORED["datasets"]])
    for path, text in STORED["artifacts"].items():
        store.client.log_text(run_id, text, path)
    store.client.set_terminated(run_id)
    return uri, run_id


def test_every_number_comes_out_again(stored, capsys):
    uri, run_id = stored
    # The versions of packages may differ by now, and with them the last digits.
    code = reproduce.main([run_id, "--tracking-uri", uri, "--tolerance", "0.001"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "Reproduced: all" in said
    assert "config    as logged" in said


def test_its_configuration_is_still_written_as_it_was(stored):
    uri, run_id = stored
    config = restore_config(read_logged(uri, run_id), uri)
    then, now = STORED["artifacts"]["config/config.yaml"].splitlines(), as_yaml(as_dict(config)).splitlines()
    changed = [line for line in now if line not in then]
    # Where it is tracked, and the values in place of `auto`, are today's.
    assert all(
        line.split(":")[0].strip()
        in {"uri", "checkpoints", "name", "device", "precision", "memory_format", "micro_batch", *NEW_KEYS}
        or line.startswith("    - ")  # the looks of the confirmation
        for line in changed
    ), changed
