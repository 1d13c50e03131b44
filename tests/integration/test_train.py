"""Single runs as a user starts them: real digits, a real SQLite store, real processes."""

import json
import signal
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pipeline import train
from pipeline.config import resolve
from pipeline.tracking import environment
from pipeline.tracking.store import open_existing_store
from tests import outputs


def open_store(folder):
    return open_existing_store(f"sqlite:///{folder}/mlruns/mlflow.db", "lr-batch")


def runs(folder, query=""):
    store = open_store(folder)
    return store, list(store.client.search_runs([store.experiment_id], query))


def test_it_learns_real_digits_and_says_which_lr_it_used(trained):
    assert "LR 0.2 = 0.1 × 2 (rule linear; base LR 0.1 at batch 64)" in trained.stderr
    _, (run,) = runs(trained.folder)
    assert run.data.metrics["val/error"] < 0.1
    assert run.data.metrics["test/error"] < 0.1
    assert f"MLflow run {run.info.run_id}" in trained.stdout


def test_everything_in_the_schema_is_tracked(trained):
    store, (run,) = runs(trained.folder)
    params, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    assert (params["batch"], params["optimizer.lr"], params["scaling.rule"], params["scaling.factor"]) == (
        "128",
        "0.2",
        "linear",
        "2.0",
    )
    assert params["runtime.device"] != "auto"
    assert int(params["runtime.threads"]) >= 1
    per_epoch = [
        "train/loss",
        "train/error",
        "val/loss",
        "val/error",
        "lr",
        "grad_norm",
        "examples_per_second",
        "optimizer_steps",
        "examples",
    ]
    for name in per_epoch:
        history = store.client.get_metric_history(run.info.run_id, name)
        assert sorted(m.step for m in history) == [1, 2, 3, 4, 5], name
    assert metrics["optimizer_steps"] == 42
    assert metrics["examples"] == 42 * 128
    assert metrics["diverged"] == 0
    assert {"test/loss", "test/error"} <= set(metrics)
    assert (tags["status"], tags["mlflow.runName"], run.info.status) == (
        "complete",
        "b128-lr0.2-s3",
        "FINISHED",
    )
    assert "mlflow.parentRunId" not in tags
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "digits"
    assert len(given.dataset.digest) <= 36


def test_the_artifacts_hold_config_environment_curves_and_best_checkpoint(trained, tmp_path):
    store, (run,) = runs(trained.folder)
    found = store.client.download_artifacts(run.info.run_id, "", str(tmp_path))
    logged = OmegaConf.load(f"{found}/config/config.yaml")
    assert logged.optimizer.lr == 0.2
    assert not OmegaConf.to_yaml(logged, resolve=False).count("${")
    assert list(OmegaConf.load(f"{found}/config/overrides.yaml")) == ["batch=128", "seed=3"]
    checkpoint = torch.load(f"{found}/checkpoints/best.pt", weights_only=True)
    history = store.client.get_metric_history(run.info.run_id, "val/loss")
    assert checkpoint["metrics"]["val/loss"] == min(m.value for m in history)
    for path in ("curves.png", "environment/requirements.txt", "environment/machine.json"):
        assert (tmp_path / path).stat().st_size > 100


def test_the_machine_is_tracked_by_the_model_of_its_processor(trained, tmp_path):
    store, (run,) = runs(trained.folder)
    path = store.client.download_artifacts(run.info.run_id, "environment/machine.json", str(tmp_path))
    assert (
        json.loads(Path(path).read_text(encoding="utf-8"))["cpu"] == run.data.tags["device"] == environment.cpu_model()
    )


def test_a_run_that_fails_while_it_is_described_is_not_left_open(composed, tmp_path, monkeypatch):
    def failing(*arguments):
        raise RuntimeError("no description")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.run.recording.record_request", failing)
    with pytest.raises(RuntimeError, match="no description"):
        train.train(resolve(composed(f"tracking.uri=sqlite:///{tmp_path}/mlruns/mlflow.db", "budget.epochs=1")))
    _, (run,) = runs(tmp_path)
    assert (run.info.status, run.data.tags["status"]) == ("FAILED", "failed")


def test_nothing_but_mlruns_is_left_behind(trained):
    assert [path.name for path in trained.folder.iterdir()] == ["mlruns"]


@pytest.mark.long
def test_four_first_runs_started_at_once_are_all_tracked_and_equal_seeds_give_equal_numbers(start_python, tmp_path):
    command = ("-m", "pipeline.train", "budget.epochs=1", "tracking.checkpoints=none")
    seeds = ["0", "1", "2", "2"]
    started = [start_python(*command, f"seed={seed}", fresh=True) for seed in seeds]
    said = ["".join(process.communicate(timeout=240)) for process in started]
    outputs.check(*said)
    assert [process.returncode for process in started] == [0] * 4, said
    _, found = runs(tmp_path)
    found.sort(key=lambda run: run.data.params["seed"])
    assert [run.data.params["seed"] for run in found] == seeds
    assert {run.info.status for run in found} == {"FINISHED"}
    other, first, second = found[1:]
    differing = {k for k, v in first.data.metrics.items() if second.data.metrics[k] != v}
    assert differing <= {"examples_per_second"}
    assert other.data.metrics["val/loss"] != first.data.metrics["val/loss"]


def test_a_terminated_run_is_closed_as_interrupted_with_code_143(start_python, tmp_path):
    process = start_python("-m", "pipeline.train", "budget.epochs=100000", fresh=True)
    assert "epoch" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    outputs.check(*process.communicate(timeout=60))
    assert process.returncode == 143
    _, (run,) = runs(tmp_path)
    assert (run.data.tags["status"], run.info.status) == ("interrupted", "KILLED")


def test_the_projects_parts_work_together(composed, tmp_path, monkeypatch):
    """Other models, optimizers, schedules, budgets and accumulation, each once, on digits."""
    monkeypatch.chdir(tmp_path)
    cases = [
        "model=simple_cnn budget=steps budget.steps=20 batch=128 tracking.checkpoints=both",
        "model=resnet18 budget=examples budget.examples=256 tracking.checkpoints=none",
        "optimizer=adamw schedule=linear batching=accumulate batching.micro_batch=50 batch=128",
        "optimizer=adam schedule=constant scaling=adam_sde batch=128 tracking.checkpoints=none",
        "optimizer.lr=1000",
        "optimizer=nesterov schedule=step budget=target budget.threshold=0.5 tracking.checkpoints=last",
    ]
    for overrides in cases:
        # Absolute, since this process may have another mlruns/ open.
        train.train(resolve(composed(*overrides.split(), f"tracking.uri=sqlite:///{tmp_path}/mlruns/mlflow.db")))
    _, found = runs(tmp_path)
    assert len(found) == len(cases)
    assert {run.info.status for run in found} == {"FINISHED"}
    # A diverged run is a result and not a crash.
    (diverged,) = [run for run in found if run.data.params["optimizer.lr"] == "1000"]
    assert (diverged.data.tags["status"], diverged.data.metrics["diverged"]) == ("diverged", 1)
    assert {run.data.tags["status"] for run in found if run is not diverged} == {"complete"}
    (target,) = [run for run in found if run.data.params["budget.kind"] == "target"]
    assert target.data.metrics["steps_to_target"] == target.data.metrics["optimizer_steps"]
    (accumulated,) = [run for run in found if run.data.params["batching.micro_batch"] == "50"]
    assert accumulated.data.metrics["val/error"] < 0.3
    assert {run.data.params["batching.micro_batch"] for run in found} == {"null", "50"}, "what was used, never auto"


@pytest.mark.long
def test_the_noise_scale_is_in_mlflow_after_a_run_and_changes_nothing_in_it(run_python, tmp_path):
    request = ["-m", "pipeline.train", "budget.epochs=3", "batching.micro_batch=16", "runtime.threads=1"]
    for more in ([], ["noise_scale.epochs=[1,-1]", "noise_scale.examples=600"]):
        done = run_python(*request, *more)
        assert done.returncode == 0, done.stderr
    store, (plain, measured) = runs(tmp_path)
    if plain.info.start_time > measured.info.start_time:
        plain, measured = measured, plain

    def steps(run, name):
        return sorted(metric.step for metric in store.client.get_metric_history(run.info.run_id, name))

    for part in ("trace", "squared_norm"):
        assert steps(measured, f"noise_scale/{part}") == [1, 3]
        assert steps(plain, f"noise_scale/{part}") == []
        assert steps(measured, f"noise_scale_accumulated/{part}") == [1, 2, 3]
    first = {
        name: next(m.value for m in store.client.get_metric_history(measured.info.run_id, name) if m.step == 1)
        for name in ("noise_scale", "noise_scale/trace", "noise_scale/squared_norm")
    }
    assert first["noise_scale"] == first["noise_scale/trace"] / first["noise_scale/squared_norm"]
    assert 1 < first["noise_scale"] < 10_000
    for name, value in plain.data.metrics.items():
        assert measured.data.metrics[name] == value or name == "examples_per_second"


def test_a_model_without_per_example_gradients_is_refused_where_they_are_asked_for(run_python, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Branches(torch.nn.Linear):\n"
        "    def forward(self, images):\n"
        "        x = super().forward(images.flatten(1))\n"
        "        return x if x.sum() > 0 else 2 * x\n"
    )
    model = ["model=custom", "model._target_=mine.Branches", "+model.in_features=64", "+model.out_features=10"]
    done = run_python("-m", "pipeline.train", *model, "noise_scale.epochs=[-1]")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    assert "torch.func can't take its gradients example by example" in done.stderr
    assert not (tmp_path / "mlruns").exists()


def test_a_users_own_model_and_data_set_need_no_code_here(run_python, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from pipeline.data.splits import content_digest, in_memory_splits, split_indices\n"
        "class Net(torch.nn.Sequential):\n"
        "    def __init__(self, width, classes):\n"
        "        super().__init__(torch.nn.LazyConv2d(width, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(classes))\n"
        "def noise(name, classes, shape, device):\n"
        "    images = torch.randint(0, 255, (300, *shape), dtype=torch.uint8); labels = torch.arange(300) % classes\n"
        "    digest, parts = content_digest(images), split_indices(300, (50, 50), 0)\n"
        "    return in_memory_splits(name, images, labels, parts, classes, digest, 'mine.noise', device, False)\n"
    )
    (tmp_path / "my" / "dataset").mkdir(parents=True)
    (tmp_path / "my" / "dataset" / "noise.yaml").write_text(
        "_target_: mine.noise\nname: noise\nclasses: 3\nshape: [1, 4, 4]\n"
    )
    done = run_python(
        *(
            "-m",
            "pipeline.train",
            "--config-dir",
            "my",
            "dataset=noise",
            "model=custom",
            "model._target_=mine.Net",
        ),
        *("+model.width=5", "+model.classes=${dataset.classes}", "budget.epochs=1"),
    )
    assert done.returncode == 0, done.stderr
    _, (run,) = runs(tmp_path)
    assert (run.data.params["dataset.name"], run.data.params["model._target_"]) == ("noise", "mine.Net")
    assert run.data.params["runtime.memory_format"] == "channels_last"


def test_the_configuration_is_shown_without_importing_torch(run_python):
    done = run_python("-X", "importtime", "-m", "pipeline.train", "batch=256", "--cfg", "job", "--resolve", fresh=True)
    assert "lr: 0.4" in done.stdout
    assert " torch\n" not in done.stderr
    assert " mlflow\n" not in done.stderr
