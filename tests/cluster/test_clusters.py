"""Sweeps on a real Slurm, a real Ray and a real PostgreSQL."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from lr_study.storage import open_storage
from pipeline.tracking.store import open_existing_store
from tests import outputs
from tests.cluster import servers
from tests.lr_study.app import hand_out_tickets
from tests.ports import free_ports

pytestmark = pytest.mark.cluster
APP = str(Path(__file__).parents[1] / "lr_study" / "app.py")
SEARCH = ("x=tag(log,interval(0.125,8.0))", "seed=0,1,2", "hydra.sweeper.replicate_key=seed", "hydra.sweep.dir=out")
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.array_parallelism=2", "hydra.launcher.cpus_per_task=1")
RAY = ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "hydra.sweeper.workers=2")
PIPELINE = ("-m", "pipeline.train", "-m", "batch=32,128", "seed=0,1", "budget.epochs=1", "hydra.sweeper.n_trials=4")


def journal_trials(path, name="app"):
    return optuna.load_study(study_name=name, storage=open_storage(str(path))).trials


def database_trials(url, name="app"):
    """The trials in a database; none where there is no study yet."""
    storage = optuna.storages.RDBStorage(url)
    try:
        return optuna.load_study(study_name=name, storage=storage).trials
    except KeyError:
        return []
    finally:
        storage.engine.dispose()


def drivers_of(url):
    """The drivers that have asked for a trial by now."""
    return {str(t.user_attrs.get("driver")) for t in database_trials(url)}


def start(*command, folder, **environment):
    return outputs.CheckedPython(*command, folder=folder, env=os.environ | environment, stderr=subprocess.STDOUT)


def ended(drivers, url, seconds=600):
    """What each driver said; one that doesn't end is killed, and its trials are shown."""
    try:
        return [driver.communicate(timeout=seconds)[0] for driver in drivers]
    except subprocess.TimeoutExpired:
        trials = [(t.number, t.state.name, t.user_attrs) for t in database_trials(url)]
        pytest.fail("\n".join(["a driver hangs; its trials:", *map(str, trials)]))
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()


def launched(request, launcher):
    """(overrides, environment) of a launcher; Slurm is started where it is asked for."""
    return (SLURM, request.getfixturevalue("slurm")) if launcher == "slurm" else (RAY, {})


# What Ray prints of itself, and of a worker that was killed.
RAYS_OWN = dict.fromkeys(("traceback", "warning", "long line"), "Ray's own")


@pytest.mark.parametrize("launcher", ["slurm", "ray"])
def test_a_sweep_of_the_project_ends_with_its_report(tmp_path, run_python, request, launcher):
    _, environment = launched(request, launcher)
    few = "hydra.launcher.array_parallelism=2" if launcher == "slurm" else "+hydra.launcher.ray.init.num_cpus=2"
    sweep = (*PIPELINE, f"hydra/launcher={launcher}", few, "hydra.sweeper.workers=2")
    done = run_python(*sweep, allow=RAYS_OWN if launcher == "ray" else None, **environment)
    assert done.returncode == 0, done.stderr
    assert "best LR" in done.stdout
    store = open_existing_store(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "lr-batch")
    runs = store.client.search_runs([store.experiment_id], "tags.pipeline = 'trial'")
    assert len(runs) == 8
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_under_slurm_a_trial_can_be_two_workers(tmp_path, run_python, slurm):
    few = ("hydra/launcher=slurm", "hydra.launcher.array_parallelism=1", "runtime.workers=2", "report.confirm.looks=[]")
    done = run_python(*PIPELINE, *few, "hydra.sweeper.n_trials=2", **slurm)
    assert done.returncode == 0, done.stderr
    store = open_existing_store(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "lr-batch")
    runs = store.client.search_runs([store.experiment_id], "tags.pipeline = 'trial'")
    assert len(runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["runtime.workers"] for run in runs} == {"2"}


@pytest.mark.parametrize("launcher", ["slurm", "ray"])
def test_a_killed_worker_costs_its_own_trial_and_no_other(tmp_path, run_python, request, launcher):
    overrides, environment = launched(request, launcher)
    request_ = (APP, "-m", *SEARCH, *overrides, "hydra.sweeper.n_trials=6", "fails=kill")
    done = run_python(*request_, allow=RAYS_OWN, **environment)
    assert done.returncode == 0, done.stderr
    trials = journal_trials(tmp_path / "out" / "optuna.journal")
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE] * 2
    assert all("died" in t.user_attrs["error"] for t in trials if t.state is TrialState.FAIL)
    runs = [line.split()[2] for line in (tmp_path / "runs.log").read_text().splitlines()]
    assert runs.count("0") == runs.count("2") == 2, "a finished trial was run again"


def test_machines_that_share_a_postgresql_share_the_work(tmp_path, postgresql):
    tickets = tmp_path / "tickets"  # none before all have joined: the first could do all the work alone
    search = (*SEARCH, f"hydra.sweeper.storage={postgresql}", "hydra.sweeper.n_trials=30", "sleep=0.1")
    search = (*search, f"log={tmp_path}/runs.log", f"tickets={tickets}")
    drivers = [start(APP, "-m", *search, folder=tmp_path) for _ in range(3)]
    try:
        servers.wait_for("the last driver", lambda: len(drivers_of(postgresql)) == 3, seconds=300)
    finally:
        drivers[0].kill()
        hand_out_tickets(tickets, 100)
    said = ended(drivers, postgresql)
    assert [driver.returncode for driver in drivers[1:]] == [0, 0], said
    trials = database_trials(postgresql)
    assert all(t.state.is_finished() for t in trials)
    counted = [t for t in trials if not t.user_attrs.get("lost") and not t.user_attrs.get("void")]
    assert sorted(t.user_attrs["slot"] for t in counted) == list(range(30))
    assert len({t.number for t in trials}) == len(trials)
    # The password is in none of Hydra's own files.
    password = postgresql.split(":")[2].split("@")[0]
    for file in (tmp_path / "out").rglob("*.yaml"):
        assert password not in file.read_text(), file


def test_a_wrong_password_is_refused_and_not_shown(tmp_path, run_python, postgresql):
    user, _, rest = postgresql.partition("@")
    wrong = f"{user.rsplit(':', 1)[0]}:hunter2@{rest}"
    done = run_python("-m", "pipeline.train", "-m", "batch=32", f"hydra.sweeper.storage='{wrong}'")
    assert done.returncode == 2
    assert "can't be reached" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_optunas_dashboard_opens_the_storage_as_it_is(tmp_path, run_python):
    done = run_python(APP, "-m", *SEARCH, "size=1,2", "hydra.sweeper.n_trials=4")
    assert done.returncode == 0, done.stderr
    (port,) = free_ports(1)
    program = str(Path(sys.executable).parent / "optuna-dashboard")
    command = [program, str(tmp_path / "out" / "optuna.journal"), "--host", "127.0.0.1", "--port", str(port)]
    with servers.running(command, tmp_path / "dashboard.log") as dashboard:
        servers.wait_for("optuna-dashboard", lambda: servers.listens(port, dashboard))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
            studies = json.load(answer)["study_summaries"]
        assert sorted(study["study_name"] for study in studies) == ["app/size=1", "app/size=2"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies/{studies[0]['study_id']}?after=0") as answer:
            assert len(json.load(answer)["trials"]) == 4
