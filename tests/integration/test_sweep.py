"""A sweep as a user starts it: small, but with real data, workers, Optuna journal and MLflow store."""

import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import optuna
import psutil
import pytest
import torch
from torch import nn
from torchvision.utils import save_image

from lr_study.storage import open_storage
from pipeline import advise, report, train
from pipeline.errors import RequestError
from pipeline.tracking.store import open_existing_store
from tests import outputs
from tests.conftest import SWEEP, copy_results
from tests.lr_study.app import wait_until


def tracked(folder):
    store = open_existing_store(f"sqlite:///{folder}/mlruns/mlflow.db", "lr-batch")
    found = list(store.client.search_runs([store.experiment_id], max_results=1000))
    parents = [run for run in found if run.data.tags["pipeline"] == "sweep"]
    return store, parents, [run for run in found if run.data.tags["pipeline"] == "trial"]


def statuses(folder):
    """MLflow's of each trial's run; none where there is no store yet."""
    return [run.info.status for run in tracked(folder)[2]] if (folder / "mlruns" / "mlflow.db").exists() else []


def has_ended(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def of_phase(children, phase):
    return [run for run in children if run.data.tags["phase"] == phase]


def journal_trials(folder):
    open_storage.cache_clear()
    storage = open_storage(str(folder / "mlruns" / "optuna.journal"))
    return {s: optuna.load_study(study_name=s, storage=storage).trials for s in optuna.get_all_study_names(storage)}


def test_it_ends_with_a_table_and_an_answer(swept):
    assert "best LR" in swept.stdout
    assert "the linear rule" in swept.stdout
    assert "16/16 trials" in swept.stderr


def test_every_trial_is_a_child_of_one_parent_with_its_study_and_number(swept):
    folder = swept.folder
    _, (parent,), children = tracked(folder)
    assert len(of_phase(children, "search")) == 16
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.tags["sweep"] for run in children} == {parent.data.tags["sweep"]}
    assert {run.data.tags["cell"] for run in children} == {"batch=32", "batch=128"}
    numbers = sorted((run.data.tags["study"], int(run.data.tags["trial"])) for run in children)
    assert len(set(numbers)) == len(children)
    assert (parent.info.status, parent.data.tags["status"]) == ("FINISHED", "complete")


def test_trials_and_runs_know_each_other_and_agree_on_the_value(swept):
    folder = swept.folder
    _, _, children = tracked(folder)
    by_id = {run.info.run_id: run for run in children}
    for study, trials in journal_trials(folder).items():
        for trial in trials:
            run = by_id[trial.user_attrs["mlflow_run_id"]]
            assert (run.data.tags["study"], run.data.tags["trial"]) == (study, str(trial.number))
            assert float(run.data.params["optimizer.lr"]) == trial.params["optimizer.lr"]
            if run.data.tags["status"] == "complete":
                assert run.data.metrics["val/loss"] == trial.value


def test_the_rules_lr_is_tried_first_in_each_cell_and_seeds_take_turns(swept):
    folder = swept.folder
    first = {study.split("/")[1]: trials[0].params["optimizer.lr"] for study, trials in journal_trials(folder).items()}
    assert first == pytest.approx({"batch=32": 0.05, "batch=128": 0.2})
    _, _, children = tracked(folder)
    for run in of_phase(children, "search"):
        assert int(run.data.params["seed"]) == int(run.data.tags["trial"]) % 2


def test_after_the_search_fresh_seeds_run_the_rules_lrs_and_the_best_one(swept):
    folder = swept.folder
    _, _, children = tracked(folder)
    seeds = {}
    for run in of_phase(children, "confirm"):
        point = (run.data.params["batch"], float(run.data.params["optimizer.lr"]))
        seeds.setdefault(point, []).append(run.data.params["seed"])
    assert all(found == ["1000-1001"] for found in seeds.values()), "two fresh seeds in each run"
    bases = [lr for batch, lr in seeds if batch == "32"]  # the base batch, 64, was not run: the smallest is
    assert len(bases) == 1
    at_128 = {lr for batch, lr in seeds if batch == "128"}
    assert any(lr == pytest.approx(4 * bases[0]) for lr in at_128), "linear's LR"


def test_workers_use_one_thread_each_and_keep_no_checkpoints(swept):
    folder = swept.folder
    store, _, children = tracked(folder)
    assert {run.data.params["runtime.threads"] for run in children} == {"1"}
    assert store.client.list_artifacts(children[0].info.run_id, "checkpoints") == []


def test_every_trial_says_the_command_of_the_sweep(swept):
    folder = swept.folder
    _, (parent,), children = tracked(folder)
    said = {run.data.tags["mlflow.source.name"] for run in (parent, *children)}
    assert said == {shlex.join(["python", *SWEEP])}


def test_the_answer_lies_in_the_parent_run(swept, tmp_path):
    folder = swept.folder
    store, (parent,), _ = tracked(folder)
    store.client.download_artifacts(parent.info.run_id, "report", str(tmp_path))
    answer = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [cell["batch"] for cell in answer["batches"]] == [32, 128]
    _, _, children = tracked(folder)
    rows = [len(seeds.split("-")) for seeds in (run.data.params["seed"] for run in children)]  # one or two each
    assert (tmp_path / "report" / "runs.csv").read_text().count("\n") == 1 + sum(rows)
    assert "<svg" in (tmp_path / "report" / "report.html").read_text()
    assert (tmp_path / "report" / "answer.png").stat().st_size > 10_000, folder
    assert "| batch |" in parent.data.tags["mlflow.note.content"]
    best = {cell["batch"]: cell["best_lr"] for cell in answer["batches"] if cell["best_lr"]}
    assert {m.step: m.value for m in store.client.get_metric_history(parent.info.run_id, "best_lr")} == best
    environment = store.client.list_artifacts(parent.info.run_id, "environment")
    assert len(environment) == 2


def test_the_report_command_gives_the_answer_again(swept, run_python, tmp_path):
    folder = swept.folder
    _, (parent,), _ = tracked(folder)
    page = tmp_path / "out.html"
    files = ("--json", str(tmp_path / "out.json"), "--html", str(page))
    done = run_python("-m", "pipeline.report", parent.data.tags["sweep"], *files, folder=folder, fresh=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["base_batch"] == 32
    assert page.exists()


def test_the_report_command_refuses_what_it_cannot_find(swept, tmp_path):
    folder = swept.folder
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    table = tmp_path / "runs.csv"
    table.write_text("batch,lr,value\n64,0.1,1.0\n")
    for arguments, names in (
        (["nope", "--tracking-uri", uri], "no sweep of that name"),
        (["nope", "--tracking-uri", uri, "--experiment", "x"], "no experiment x"),
        (["nope", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"], "no tracking database there"),
        (["--table", "nope.csv"], "can't be read"),
        (["--table", str(table), "--margin", "x"], "report.margin=x"),
    ):
        with pytest.raises(RequestError, match=names):
            report.main(arguments)


def test_the_advise_command_takes_the_sweep_as_evidence(swept, tmp_path):
    folder = swept.folder
    _, (parent,), _ = tracked(folder)
    asked = ["--from-batch", "128", "--from-lr", "0.1", "--to-batch", "32"]
    asked += ["--tracking-uri", f"sqlite:///{folder}/mlruns/mlflow.db", "--json", str(tmp_path / "advice.json")]
    advise.main([*asked, "--sweep", parent.data.tags["sweep"]])
    evidence = json.loads((tmp_path / "advice.json").read_text())["evidence"]
    assert evidence["measured"] == [32, 128]
    assert (evidence["best_lr"] is None) == (evidence["refusal"] is not None)
    with pytest.raises(RequestError, match="no sweep of that name"):
        advise.main([*asked, "--sweep", "nope"])


def test_the_same_command_again_trains_nothing_and_answers_at_once(swept, run_python, tmp_path):
    folder = copy_results(swept.folder, tmp_path / "again")
    _, _, before = tracked(folder)
    done = run_python(*SWEEP, folder=folder)
    assert done.returncode == 0, done.stderr
    _, parents, children = tracked(folder)
    assert (len(parents), len(children)) == (1, len(before))
    assert f"{len(before)} trials, {len(before)} of them done" in done.stderr
    assert done.stdout == swept.stdout


def test_another_interval_for_the_same_sweep_is_refused_with_the_difference(swept, call_command, tmp_path):
    (tmp_path / "mlruns").mkdir()
    shutil.copy(swept.folder / "mlruns" / "optuna.journal", tmp_path / "mlruns")
    _, (parent,), _ = tracked(swept.folder)
    done = call_command(train.main, *SWEEP[2:], "optimizer.lr=tag(log,interval(0.01,1.0))")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        f"The sweep {parent.data.tags['sweep']} exists with another configuration: "
        "optimizer.lr: tag(log,interval(0.0015625,1.6)), now tag(log,interval(0.01,1.0)).",
        "Go back to that configuration, or give this sweep another name.",
    ]
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


class Breaks(nn.Module):
    """The second one of a process can't be built, and the third fails in training."""

    built = 0

    def __init__(self):
        super().__init__()
        Breaks.built += 1
        if Breaks.built == 2:
            raise ValueError("no room for it")
        self.layer, self.fails, self.passes = nn.Linear(64, 10), Breaks.built == 3, 0

    def forward(self, images):
        self.passes += 1
        if self.fails and self.passes > 10:
            raise KeyError("lost")
        return self.layer(images.flatten(1))


def test_trials_that_raise_are_counted_and_named_in_the_report_wherever_they_raise(call_command, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.sweep.hooks.check_buildable", lambda *arguments: None)
    monkeypatch.setattr(Breaks, "built", 0)
    model = ("model=custom", "model._target_=tests.integration.test_sweep.Breaks")
    store_here = f"tracking.uri=sqlite:///{tmp_path}/mlruns/mlflow.db"  # this process may have another mlruns/ open
    done = call_command(
        train.main,
        *(
            "-m",
            "optimizer.lr=0.1,0.2,0.3,0.4",
            "budget.epochs=1",
            "sweep.name=s",
            "hydra/launcher=basic",
            store_here,
            *model,
        ),
    )
    assert done.code == 0, done.err
    assert "4/4 trials, 2 failed" in done.err
    said = (
        "2 of 4 runs failed with an error, and say nothing about their LR: ValueError: no room for it"
        " (batch 64, LR 0.2, seed 0); KeyError: 'lost' (batch 64, LR 0.3, seed 0)."
    )
    assert said in " ".join(done.out.split())
    store, (parent,), children = tracked(tmp_path)
    assert said in parent.data.tags["mlflow.note.content"]
    failed = {run.data.params["optimizer.lr"]: run for run in children if run.data.tags["status"] == "failed"}
    assert {lr: run.data.tags["error"] for lr, run in failed.items()} == {
        "0.2": "ValueError: no room for it",
        "0.3": "KeyError: 'lost'",
    }
    assert {run.info.status for run in failed.values()} == {"FAILED"}
    folder = store.client.download_artifacts(parent.info.run_id, "report", str(tmp_path))
    answer = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))
    assert [(run["lr"], run["reason"]) for run in answer["failed_runs"]] == [
        (0.2, "ValueError: no room for it"),
        (0.3, "KeyError: 'lost'"),
    ]


@pytest.mark.long  # half a minute each
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_says_so_and_leaves_nothing_running(start_python, tmp_path, number, code):
    driver = start_python(*SWEEP, "hydra.sweeper.n_trials=4", "budget.epochs=5000", fresh=True)
    wait_until(lambda: len(statuses(tmp_path)) >= 2, "two trials that are tracked")
    others = psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in others if any("LokyProcess" in word for word in process.cmdline())]
    assert len(workers) >= 2
    driver.send_signal(number)
    wait_until(lambda: all(map(has_ended, workers)), "the workers' end", seconds=10)
    # The trials' records are sent now, which takes as long as the disk needs.
    printed, said = driver.communicate(timeout=240)
    wait_until(lambda: all(map(has_ended, others)), "the others' end", seconds=10)
    outputs.check(printed, said)
    assert driver.returncode == code, said
    assert "Run the same command again to resume the sweep:" in said
    assert "-m pipeline.train -m batch=32,128" in said
    _, (parent,), children = tracked(tmp_path)
    assert (parent.info.status, parent.data.tags["status"]) == ("KILLED", "interrupted")
    assert {(run.info.status, run.data.tags["status"]) for run in children} == {("KILLED", "interrupted")}
    trials = [trial for study in journal_trials(tmp_path).values() for trial in study]
    assert trials
    assert all(trial.user_attrs["interrupted"] for trial in trials)


@pytest.mark.long
def test_after_a_death_no_run_is_left_running_and_retries_say_what_they_repeat(tmp_path, start_python, run_python):
    command = (*SWEEP, "hydra.sweeper.n_trials=4", "budget.epochs=200", "report.confirm.looks=[]")
    driver = start_python(*command, fresh=True, new_session=True)
    try:
        wait_until(
            lambda: len(found := statuses(tmp_path)) >= 4 and "RUNNING" in found, "a fourth trial and one that runs"
        )
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert "RUNNING" in statuses(tmp_path)
    done = run_python(*command, folder=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    _, (parent,), children = tracked(tmp_path)
    assert parent.info.status == "FINISHED"
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}
    lost = {run.data.tags["trial"]: run for run in children if run.data.tags["status"] == "lost"}
    assert lost
    for run in children:
        if "retry_of" in run.data.tags and run.data.tags["retry_of"] in lost:
            old = lost[run.data.tags["retry_of"]]
            if old.data.tags["study"] == run.data.tags["study"]:
                assert run.data.params["optimizer.lr"] == old.data.params["optimizer.lr"]
                assert run.data.params["seed"] == old.data.params["seed"]
    finished = [run for run in children if run.info.status == "FINISHED"]
    assert len(finished) == 8
    assert "8/8 trials" in done.stderr


@pytest.mark.long
def test_a_pruned_trial_is_marked_so_and_counts_in_no_minimum(tmp_path, run_python):
    """A random search over fourteen octaves puts some trials far from the best."""
    search = ("search.octaves=7", "hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=20", "budget.epochs=4")
    search += ("report.confirm.looks=[]",)
    done = run_python("-m", "pipeline.train", "-m", "batch=32", "seed=0,1", *search, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    _, _, children = tracked(tmp_path)
    pruned = [run for run in children if run.data.tags["status"] == "pruned"]
    assert pruned
    assert {run.info.status for run in pruned} == {"FINISHED"}
    (trials,) = journal_trials(tmp_path).values()
    marked = {t.user_attrs["mlflow_run_id"] for t in trials if t.state is optuna.trial.TrialState.PRUNED}
    assert marked == {run.info.run_id for run in pruned}
    assert all(1 <= len(t.intermediate_values) < 4 for t in trials if t.state is optuna.trial.TrialState.PRUNED)
    assert all("test/loss" not in run.data.metrics for run in pruned)


@pytest.mark.long
def test_a_sweep_trains_on_a_folder_of_images_that_other_processes_decode(run_python, tmp_path):
    for label, name in enumerate(("cat", "dog")):
        folder = tmp_path / "images" / "train" / name
        folder.mkdir(parents=True)
        for number in range(12):
            save_image(torch.full((3, 8, 8), (label * 12 + number) / 24), folder / f"{number:02d}.png")
    data = ("dataset=image_folder", "dataset.root=images", "dataset.classes=2", "dataset.shape=[3,8,8]")
    sweep = ("batch=4,6", "hydra.sweeper.n_trials=1", "budget.epochs=1", "report.confirm.looks=[]", "-m")
    done = run_python("-m", "pipeline.train", *data, *sweep)
    assert done.returncode == 0, done.stderr
    _, _, children = tracked(tmp_path)
    assert [run.info.status for run in children] == ["FINISHED"] * 2
