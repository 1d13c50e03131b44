"""Reproducing tracked runs from what they logged: single runs, trials, and what must be refused."""

import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.entities import Metric
from omegaconf import OmegaConf

from pipeline import reproduce
from pipeline.errors import RequestError
from pipeline.tracking.logged import read_logged
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.store import open_existing_store
from pipeline.tracking.sweep import ParentRun
from pipeline.tracking.target import TrackingTarget
from tests import outputs
from tests.conftest import user_environment


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, fork_server):
    """A folder with one run."""
    folder = tmp_path_factory.mktemp("tracked")
    run(fork_server, folder, "budget.epochs=2", "batching.micro_batch=50", "seed=3")
    return folder


@pytest.fixture(scope="module")
def with_trials(tracked, fork_server):
    """The same folder with a small sweep, among whose trials are pruned and diverged ones."""
    search = ("batch=32", "seed=0,1", "budget.epochs=4", "search.octaves=7", "report.confirm.looks=[]")
    run(fork_server, tracked, "-m", *search, "hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=20")
    return tracked


def run(fork_server, folder, *arguments):
    process = fork_server.start(("-m", "pipeline.train", *arguments), folder, user_environment())
    said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    outputs.check(*said)


@pytest.fixture
def uri(tracked, monkeypatch):
    monkeypatch.chdir(tracked)
    monkeypatch.setattr("sys.argv", ["reproduce"])
    return f"sqlite:///{tracked}/mlruns/mlflow.db"


def id_of(uri, query):
    store = open_existing_store(uri, "lr-batch")
    runs = store.client.search_runs([store.experiment_id], query)
    return next(run.info.run_id for run in runs if "reproduces" not in run.data.tags)


def test_a_run_is_reproduced_bit_for_bit_by_the_command(tracked, uri, run_python):
    run_id = id_of(uri, "tags.pipeline = 'run'")
    done = run_python("-m", "pipeline.reproduce", run_id, folder=tracked, fresh=True)
    assert done.returncode == 0, done.stderr
    assert "packages  the same" in done.stdout
    assert "data      the same" in done.stdout
    assert "equal bit for bit" in done.stdout
    store = open_existing_store(uri, "lr-batch")
    (again,) = store.client.search_runs([store.experiment_id], f"tags.reproduces = '{run_id}'")
    original = store.client.get_run(run_id)
    assert again.data.params["runtime.threads"] == original.data.params["runtime.threads"]
    assert again.data.metrics["val/loss"] == original.data.metrics["val/loss"]


def test_a_batch_that_was_cut_by_itself_is_cut_in_the_same_pieces_again(tmp_path, monkeypatch, capsys, run_python):
    request = ("model=simple_cnn", "model.channels=[2,4]", "model.dense=8", "batch=1060", "budget=steps")
    done = run_python("-m", "pipeline.train", *request, "budget.steps=6", "tracking.checkpoints=none")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["reproduce"])
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    run_id = id_of(uri, "tags.pipeline = 'run'")
    logged = read_logged(uri, run_id)
    assert "micro_batch: auto" in logged.config
    assert logged.params["batching.micro_batch"] == "530"
    assert reproduce.restore_config(logged, uri).batching.micro_batch == 530
    # Another machine, or a later version, may choose another size; the run keeps its own.
    monkeypatch.setattr("pipeline.engine.runtime.LARGEST_MICRO_BATCH", {"fp32": 100})
    assert reproduce.main([run_id]) == 0, capsys.readouterr().out
    assert "equal bit for bit" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("status", ["complete", "pruned", "diverged"])
def test_a_sweeps_trial_is_reproduced_as_far_as_it_came(with_trials, uri, status, capsys):
    run_id = id_of(uri, f"tags.pipeline = 'trial' AND tags.status = '{status}'")
    assert reproduce.main([run_id]) == 0, capsys.readouterr().out
    assert "equal bit for bit" in capsys.readouterr().out


def test_one_wrong_digit_is_found_and_the_code_is_3(uri, capsys):
    run_id = id_of(uri, "tags.pipeline = 'run'")
    store = open_existing_store(uri, "lr-batch")
    value = store.client.get_metric_history(run_id, "val/loss")[1]
    wrong = Metric("val/loss", value.value * (1 + 1e-12), value.timestamp + 1, value.step)
    store.client.log_batch(run_id, metrics=[wrong])
    assert reproduce.main([run_id]) == 3
    said = capsys.readouterr().out
    assert "val/loss" in said
    assert "1 of" in said
    assert reproduce.main([run_id, "--tolerance", "1e-9"]) == 0


def test_check_compares_what_it_rests_on_and_trains_nothing(uri, capsys, monkeypatch):
    run_id = id_of(uri, "tags.pipeline = 'run'")
    store = open_existing_store(uri, "lr-batch")
    count = len(store.client.search_runs([store.experiment_id], max_results=1000))
    monkeypatch.setattr("pipeline.tracking.environment.installed_packages", lambda: "torch==1.0\n")
    monkeypatch.setattr("pipeline.tracking.git.git_state", lambda: ("abc", ""))
    assert reproduce.main([run_id, "--check"]) == 0
    said = capsys.readouterr().out
    assert "torch 2." in said
    assert "→ 1.0" in said
    assert "abc now" in said
    assert len(store.client.search_runs([store.experiment_id], max_results=1000)) == count


def logged(uri, config, digest=None, tags=None, experiment="forged", params=None, files=None):
    """A run in MLflow whose config artifact says `config`."""
    run = TrackedRun(TrackingTarget(uri, experiment), "forged", {"pipeline": "run"} | (tags or {}))
    with run:
        if config is not None:
            run.log_text(config, "config/config.yaml")
        for path, text in (files or {}).items():
            run.log_text(text, path)
        run.log_params(params or {})
        if digest:
            run.spool.append({"tags": {"config_digest": digest}})
    return run.id


def test_what_is_not_a_run_of_ours_is_refused(uri):
    store = open_existing_store(uri, "lr-batch")
    foreign = store.client.create_run(store.experiment_id).info.run_id
    with ParentRun(TrackingTarget(uri, "lr-batch"), "sweep") as parent:
        sweep = parent.id
    for run_id, says in (
        ("no-run", "not a run id"),
        ("../../etc/passwd", "not a run id"),
        ("0" * 32, "no such run"),
        (foreign, "not a run of this project"),
        (sweep, "a sweep; name one of its runs"),
        (logged(uri, None), "is missing"),
        (logged(uri, "batch: 1\n", digest="0" * 64), "was edited"),
        (logged(uri, "batch: 1\n"), "not one of this version"),
        (logged(uri, "a: [1\n"), "can't be read"),
    ):
        with pytest.raises(RequestError, match=says):
            reproduce.main([run_id])
    for target in ("http://127.0.0.1:1", "postgresql://me:hunter2@127.0.0.1:1/x", "sqlite:////nowhere/x.db"):
        with pytest.raises(RequestError) as refused:
            reproduce.main(["0" * 32, "--tracking-uri", target])
        assert "hunter2" not in str(refused.value)


def test_a_forged_configuration_runs_no_code(uri, tmp_path):
    store = open_existing_store(uri, "lr-batch")
    real = id_of(uri, "tags.pipeline = 'run'")
    path = store.client.download_artifacts(real, "config/config.yaml", str(tmp_path))
    text = Path(path).read_text(encoding="utf-8")
    mark = tmp_path / "ran"
    attacks = (
        text.replace("_target_: pipeline.models.MLP", f"_target_: os.system\n  _args_: ['touch {mark}']"),
        text.replace("_target_: torch.optim.SGD", f"_target_: pathlib.Path.touch\n  _args_: ['{mark}']"),
        text.replace("_target_: pipeline.data.digits", f"_target_: builtins.open\n  file: {mark}\n  mode: w"),
        text + f"extra: !!python/object/apply:os.system ['touch {mark}']\n",
    )
    for attack in attacks:
        assert attack != text
        with pytest.raises(RequestError):
            reproduce.main([logged(uri, attack)])
    assert not mark.exists()


def test_a_forged_configuration_has_no_data_set_written_where_it_says(uri, text, tmp_path):
    names = ("name", "source", "root", "classes", "shape", "split_seed", "val_examples", "augment")
    values = ("fashion_mnist", "FashionMNIST", str(tmp_path / "written"), 10, [1, 28, 28], 0, 10_000, False)
    images = {"_target_": "pipeline.data.torchvision_images"}
    there = images | dict(zip(names, values, strict=True)) | {"device": "cpu"}
    for key, value in (
        ("model.extra", there),
        ("optimizer.params", [there]),
        ("dataset.name", there),
        ("dataset", images | {"_args_": list(values)}),
    ):
        forged = OmegaConf.create(text)
        OmegaConf.update(forged, key, value, merge=False)
        run_id = logged(uri, OmegaConf.to_yaml(forged))
        open_existing_store(uri, "forged").client.log_metric(run_id, "train/loss", 1.0, step=1)
        with pytest.raises(RequestError, match=r"not here|by name"):
            reproduce.main([run_id])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def text(tracked):
    """The configuration of the one run."""
    uri = f"sqlite:///{tracked}/mlruns/mlflow.db"
    store = open_existing_store(uri, "lr-batch")
    return Path(store.client.download_artifacts(id_of(uri, "tags.pipeline = 'run'"), "config/config.yaml")).read_text(
        encoding="utf-8"
    )


def test_no_variable_of_the_environment_is_sent_to_the_store_by_what_it_says(uri, text, tracked, monkeypatch):
    secret = "hunter2"[::-1]
    monkeypatch.setenv("PIPELINE_SECRET", secret)
    forged = [
        logged(uri, text, experiment="${oc.env:PIPELINE_SECRET}"),
        logged(uri, text, params={"runtime.device": "${oc.env:PIPELINE_SECRET}"}),
        logged(uri, text, params={"runtime.threads": "${oc.env:PIPELINE_SECRET}"}),
        logged(uri, text.replace("name: digits", "name: ${oc.env:PIPELINE_SECRET}")),
    ]
    store = open_existing_store(uri, "lr-batch")
    for run_id in forged:
        store.client.log_metric(run_id, "train/loss", 1.0, step=1)
        with pytest.raises(RequestError) as refused:
            reproduce.main([run_id])
        assert secret not in str(refused.value)
    for file in tracked.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def test_a_machine_that_cannot_be_read_is_refused_without_a_traceback(tracked, uri, text, run_python):
    run_id = logged(uri, text, files={"environment/machine.json": "[" * 5000})
    done = run_python("-m", "pipeline.reproduce", run_id, "--check", folder=tracked)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "machine.json can't be read" in done.stderr


def test_what_was_logged_is_shown_as_it_is_and_does_nothing_to_a_terminal(uri, text, capsys, monkeypatch):
    evil = "[/x] [bold]:smile: \x1b[31m\x9b2J\u202e"
    machine = f'{{"cpu": "{evil.encode("unicode_escape").decode()}", "platform": "[/y]"}}'.replace("\\x", "\\u00")
    files = {"environment/machine.json": machine, "environment/requirements.txt": f"torch==1.0{evil}\n[/z]==1\n"}
    run_id = logged(uri, text, files=files, tags={"device": evil, "mlflow.source.git.commit": evil})
    store = open_existing_store(uri, "lr-batch")
    store.client.set_tag(run_id, "status", evil)
    honest = read_logged(uri, run_id)
    forged = replace(honest, history={f"train/loss {evil}": {1: 1.0}})  # a server need not keep to MLflow's rules
    monkeypatch.setattr("pipeline.tracking.logged.read_logged", lambda *arguments: forged)
    monkeypatch.setattr("pipeline.run.training.run_training", lambda *a, **k: (SimpleNamespace(history={}), 0.0, None))
    assert reproduce.main([run_id, "--check"]) == 0
    said = capsys.readouterr().out
    assert said.count("[/x] [bold]:smile: ") == 4, said
    assert "[/z]" in said
    assert reproduce.main([run_id]) == 3
    said += capsys.readouterr().out
    assert "train/loss [/x]" in said
    assert not {"\x1b", "\x9b", "\u202e"} & set(said)


def test_a_message_does_nothing_to_a_terminal_either(tracked, uri, run_python):
    run_id = logged(uri, "batch: 1\n", params={"a": "b"}, tags={"x": "y"}, experiment="${\x1b[31m[/x]")
    done = run_python("-m", "pipeline.reproduce", run_id, folder=tracked)
    assert done.returncode == 2, done.stderr
    assert "called ${�[31m[/x], which" in done.stderr


def test_a_run_that_was_cut_off_after_its_last_evaluation_is_reproduced_with_its_test(uri, capsys):
    """It lasted its budget, and looked at the test split; what came then was no more training."""
    run_id = id_of(uri, "tags.pipeline = 'run' AND tags.mlflow.runName LIKE 'b64%'")
    store = open_existing_store(uri, "lr-batch")
    store.client.set_tag(run_id, "status", "interrupted")
    try:
        assert reproduce.main([run_id, "--tolerance", "1e-9"]) == 0, capsys.readouterr().out
    finally:
        store.client.set_tag(run_id, "status", "complete")
    (again,) = store.client.search_runs([store.experiment_id], f"tags.reproduces = '{run_id}'", max_results=1)
    assert "test/loss" in again.data.metrics


def test_a_run_without_a_digest_is_said_not_to_be_checkable(uri, text, capsys):
    assert reproduce.main([logged(uri, text), "--check"]) == 0
    assert "config    not checkable: the run has no config_digest" in capsys.readouterr().out
    assert reproduce.main([id_of(uri, "tags.pipeline = 'run' AND tags.config_digest != ''"), "--check"]) == 0
    assert "config    as logged" in capsys.readouterr().out


def test_check_builds_nothing_fetches_nothing_and_says_what_data_it_could_not_compare(
    uri, text, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("PIPELINE_DATA", str(tmp_path / "none"))
    monkeypatch.setattr("pipeline.run.training.build_workload", lambda *a, **k: pytest.fail("builds"))
    config = OmegaConf.create(text)
    config.dataset = {
        "_target_": "pipeline.data.torchvision_images",
        **{"name": "mnist", "source": "MNIST", "root": str(tmp_path), "classes": 10, "shape": [1, 28, 28]},
        **{"split_seed": 0, "val_examples": 10, "augment": False},
    }
    config.model._target_ = "torch.nn.Linear"  # which would refuse its arguments
    run = TrackedRun(TrackingTarget(uri, "forged"), "forged", {"pipeline": "run"})
    with run:
        run.log_text(OmegaConf.to_yaml(config), "config/config.yaml")
        run.log_dataset("mnist", "0" * 32, "torchvision", 1)
    assert reproduce.main([run.id, "--check"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["Run", "config", "code", "packages", "machine", "data"]
    assert said[-1].startswith("data      not compared: MNIST is not in")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_killed_run_is_gone_on_with_in_the_same_mlflow_run_and_equals_the_uninterrupted_one(
    tmp_path, start_python, run_python
):
    """kill -9 in the middle of an epoch, then the same command."""
    request = ("-m", "pipeline.train", "budget.epochs=25", "resume=auto", "batch=8", "runtime.threads=1")
    process = start_python(*request, fresh=True)
    for line in process.stdout:
        if line.startswith("epoch") and int(line.split()[1]) >= 5:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    done = run_python(*request)
    assert done.returncode == 0, done.stderr
    assert "Resuming a run that was cut off" in done.stderr
    whole = run_python(*(part for part in request if part != "resume=auto"))
    assert whole.returncode == 0, whole.stderr
    assert "Resuming" not in whole.stderr
    store = open_existing_store(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "lr-batch")
    second, first = store.client.search_runs([store.experiment_id])
    assert {r.info.status for r in (first, second)} == {"FINISHED"}
    for key in first.data.metrics:
        if key != "examples_per_second":
            histories = [store.client.get_metric_history(r.info.run_id, key) for r in (first, second)]
            resumed, uninterrupted = ([(m.step, m.value) for m in sorted(h, key=lambda m: m.step)] for h in histories)
            assert resumed == uninterrupted, key
    assert not list((tmp_path / "mlruns" / "spool").iterdir())
