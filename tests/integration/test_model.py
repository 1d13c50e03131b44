"""A tracked network as an MLflow model that answers without this project."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pipeline.tracking.store import open_existing_store

pytestmark = pytest.mark.long  # torch.export alone takes some seconds a process


def test_a_sweeps_best_model_is_loaded_and_predicts(run_python, tmp_path):
    request = ("-m", "batch=32,128", "seed=0,1", "hydra.sweeper.n_trials=4", "budget.epochs=2")
    done = run_python("-m", "pipeline.train", *request, "tracking.log_model=best", "report.confirm.looks=[]")
    assert done.returncode == 0, done.stderr
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    store = open_existing_store(uri, "lr-batch")
    runs = store.client.search_runs([store.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["pipeline"] == "sweep"]
    trials = [run for run in runs if run.data.tags["pipeline"] == "trial"]
    best = min(trials, key=lambda run: run.data.metrics["val/loss"])
    assert parent.data.tags["model_of"] == best.info.run_id
    program = (
        "import sys, json, numpy as np, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model(f'runs:/{sys.argv[2]}/model')\n"
        "assert model.metadata.signature is not None and model.input_example is not None\n"
        "from sklearn.datasets import load_digits\n"
        "data = load_digits()\n"
        "images = (data.images[:, None] / 16).astype('float32')\n"
        "print(json.dumps(float((model.predict(images).argmax(1) == data.target).mean())))\n"
        "assert 'pipeline' not in sys.modules\n"
    )
    done = run_python("-c", program, uri, parent.info.run_id, fresh=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) > 0.5, "far better than one in ten"
    example = {"inputs": np.zeros((3, 1, 8, 8)).tolist()}
    (tmp_path / "input.json").write_text(json.dumps(example))
    command = ["models", "predict", "-m", f"runs:/{parent.info.run_id}/model", "-i", "input.json"]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *command, "--env-manager", "local"],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(json.loads(done.stdout.splitlines()[-1])["predictions"]) == 3
