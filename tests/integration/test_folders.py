"""The folders that Hydra makes for jobs: paths are taken from where the command was started, passwords stay out."""

import shutil

import pytest
import torch
from omegaconf import OmegaConf
from torchvision.utils import save_image

from lr_study import current_trial
from pipeline import train
from tests.integration.test_secrets import SECRET, nowhere
from tests.lr_study.inprocess import multirun, parabola

ADDRESS = f"http://me:{SECRET}@127.0.0.1:1"
SWEEP = ("-m", "batch=64", "budget.epochs=1", "hydra.sweeper.n_trials=1", "report.confirm.looks=[]")
SWEEP += ("hydra.job.chdir=true", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}")


def databases(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.db"))


def test_a_run_in_a_folder_of_its_own_is_tracked_where_the_command_was_started(call_command, tmp_path):
    done = call_command(train.main, "hydra.job.chdir=true", "hydra.run.dir=out", "budget.epochs=1")
    assert done.code == 0, done.err
    assert databases(tmp_path) == ["mlruns/mlflow.db"]
    assert list((tmp_path / "out").iterdir()) == []


def check_swept(folder, database, code, out, err):
    assert code == 0, err
    assert "1/1 trials" in err
    assert "best LR" in out
    assert databases(folder) == [database]
    assert sorted(path.name for path in (folder / "sweep").iterdir()) == ["0", "driver.lock", "multirun.yaml"]


@pytest.mark.long
def test_trials_in_folders_of_their_own_are_tracked_where_the_command_was_started(run_python, tmp_path):
    done = run_python("-m", "pipeline.train", *SWEEP, "hydra.launcher.n_jobs=2")
    check_swept(tmp_path, "mlruns/mlflow.db", done.returncode, done.stdout, done.stderr)


def test_so_are_trials_in_the_drivers_own_process(call_command, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.sweep.hooks.check_buildable", lambda configs, launcher: None)  # takes seconds
    # MLflow keeps a database open by its address, and this process has one under the usual address.
    own = "tracking.uri=sqlite:///mlruns/basic.db"
    done = call_command(train.main, *SWEEP, "hydra/launcher=basic", own)
    check_swept(tmp_path, "mlruns/basic.db", done.code, done.out, done.err)


def test_a_relative_folder_of_images_is_looked_up_where_the_command_was_started(call_command, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / "train" / name).mkdir(parents=True)
        for number in range(12):
            save_image(torch.zeros(3, 8, 8), tmp_path / "images" / "train" / name / f"{number}.png")
    data = ("dataset=image_folder", "dataset.root=images", "dataset.classes=2", "dataset.shape=[3,8,8]")
    done = call_command(train.main, *data, "batch=500", "hydra.job.chdir=true", "hydra.run.dir=out")
    assert done.code == 2
    assert "larger than the training split of" in done.err


def test_what_a_server_lacks_is_kept_where_the_command_was_started(call_command, tmp_path):
    address = "tracking.uri=http://127.0.0.1:1"
    done = call_command(train.main, address, "hydra.job.chdir=true", "hydra.run.dir=out", "budget.epochs=1")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "mlruns" / "spool").glob("*.jsonl"))) == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("more", [(), ("hydra.run.dir=out", "hydra.job.chdir=true"), ("hydra/job_logging=default",)])
def test_the_files_that_hydra_saves_beside_a_run_hold_no_password(call_command, tmp_path, more):
    storage = f"hydra.sweeper.storage='postgresql://me:{SECRET}@h/x'"
    wrong = ("batch=0", f"tracking.uri={ADDRESS}", storage, "hydra.output_subdir=.hydra", *more)
    done = call_command(train.main, *wrong)
    assert (done.code, done.err.splitlines()[0][:8]) == (2, "batch=0:")
    nowhere(tmp_path, done.err)
    (folder,) = tmp_path.rglob(".hydra")
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    assert OmegaConf.load(folder / "config.yaml").tracking.uri == "http://me:***@127.0.0.1:1"
    assert "tracking.uri=http://me:***@127.0.0.1:1" in OmegaConf.load(folder / "overrides.yaml")
    assert OmegaConf.load(folder / "hydra.yaml").hydra.sweeper.storage == "postgresql://me:***@h/x"


def test_without_a_password_hydras_files_stay_as_hydra_writes_them(call_command, tmp_path):
    saved = ("hydra.output_subdir=.hydra", "tracking.uri=${oc.env:NO_SUCH_VARIABLE,'http://127.0.0.1:1'}")
    assert call_command(train.main, "batch=0", *saved).code == 2
    config = OmegaConf.load(tmp_path / ".hydra" / "config.yaml")
    assert OmegaConf.to_container(config)["tracking"]["uri"] == "${oc.env:NO_SUCH_VARIABLE,'http://127.0.0.1:1'}"


@pytest.mark.parametrize("subdir", [".", "${hydra.job.num}"])
def test_the_files_that_hydra_saves_beside_trials_hold_no_password(tmp_path, subdir):
    told = []

    def task(cfg):
        told.append(cfg.log)
        nowhere(tmp_path)
        assert current_trial() is not None
        return parabola(cfg)

    folders = ("hydra.output_subdir=.hydra", f"hydra.sweep.subdir={subdir}")
    multirun(
        tmp_path, "size=1,2", "x=interval(1.0,2.0)", "hydra.sweeper.n_trials=2", f"log={ADDRESS}", *folders, task=task
    )
    assert told == [ADDRESS] * 4
    assert len(list(tmp_path.rglob("overrides.yaml"))) == (1 if subdir == "." else 4)
    nowhere(tmp_path)


def test_a_trial_that_another_process_runs_leaves_no_password_either(tmp_path, monkeypatch):
    monkeypatch.setattr("lr_study.trial_task._claim", lambda storage, trial_id: False)
    saved = (f"log={ADDRESS}", "hydra.output_subdir=.hydra", "hydra.sweeper.max_failure_rate=1.0")
    multirun(tmp_path, "size=1,2", *saved)
    assert list(tmp_path.rglob("overrides.yaml"))
    nowhere(tmp_path)


def test_a_folders_name_holds_no_password(call_command, tmp_path):
    named = ("hydra.run.dir=out/${hydra.job.override_dirname}", f"tracking.uri={ADDRESS}")
    assert call_command(train.main, "batch=0", *named).code == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["batch=0"]
    shutil.rmtree(tmp_path / "out")
