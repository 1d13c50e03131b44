"""Waves keep all workers busy, and all waves use the same workers."""

import math
import statistics
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from lr_study import trial_task
from pipeline.data import digits
from pipeline.engine import fit
from pipeline.models import MLP
from pipeline.recipe.budget import Budget, plan_training
from pipeline.recipe.schedule import Schedule, make_schedule
from tests.lr_study import stub
from tests.lr_study.inprocess import multirun, trials_of
from tests.lr_study.test_sweeper import APP, TWO_PROCESSES

# Seconds of training of a trial of the main job at each batch size, and its other seconds, on one machine.
TRAINING = {4: 0.53, 8: 0.28, 16: 0.16, 32: 0.10, 64: 0.07, 128: 0.05, 256: 0.035}
OVERHEAD = 0.12


def slowness():
    """How many times longer a trial at batch 64 trains here and now; three measurements."""
    splits = digits("digits", 10, [1, 8, 8], 0, 360, 360, torch.device("cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    for _ in range(3):
        model = MLP((1, 8, 8), 10, (256, 128))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        plan = plan_training(Budget(kind="epochs", epochs=5), 64, len(splits.train))
        schedule = make_schedule(
            Schedule(name="constant", warmup_fraction=0.05), plan.total_steps, plan.steps_per_epoch
        )
        started = time.process_time()
        fit(model, optimizer, splits, plan, schedule, batch=64, seed=0)
        seconds.append(time.process_time() - started)
    torch.set_num_threads(threads)
    return [second / TRAINING[64] for second in seconds]


def task(cfg):
    return math.log2(float(cfg.x)) ** 2 + 1


@pytest.fixture
def main_job(tmp_path, monkeypatch):
    """Simulate the main job; returns the seconds that it would take on the machine of `TRAINING`."""

    def simulate(sampler, workers, name):
        stub.register()
        monkeypatch.setattr(stub.StubLauncher, "workers", workers)
        monkeypatch.setattr(stub.StubLauncher, "length", lambda _, given: TRAINING[int(given["size"])] + OVERHEAD)
        sizes = ",".join(map(str, TRAINING))
        search = (
            "x=tag(log,interval(0.125,8.0))",
            "seed=range(8)",
            f"size={sizes}",
            f"hydra.sweeper.workers={workers}",
        )
        before = slowness()
        started = time.process_time()  # not the clock: other processes run beside this one
        multirun(tmp_path / name, *search, f"hydra/sweeper/sampler={sampler}", "hydra/launcher=stub", task=task)
        own = time.process_time() - started - stub.StubLauncher.job_seconds
        # The driver's own time was measured on this machine at this moment, that of the trials was not.
        slow = statistics.median(before + slowness())
        seconds = stub.StubLauncher.makespan + own / slow
        print(f"\nmain job, simulated: {seconds:.1f} s with {workers} worker(s); {slow:.1f} times as slow here")
        waves = {t.user_attrs["wave"][0] for t in trials_of(tmp_path / name, "app/size=4")}
        assert sorted(waves) == list(range(len(waves)))
        return seconds

    return simulate


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_main_job_on_eight_workers_is_five_times_faster_than_on_one(main_job, sampler):
    eight = [main_job(sampler, 8, f"eight{i}") for i in range(3)]
    assert main_job(sampler, 1, "one") > 5 * statistics.median(eight)


def test_a_wave_holds_two_trials_a_worker_and_the_longest_come_first(tmp_path, monkeypatch):
    clock = [0.0]

    def slow(cfg):
        clock[0] += float(cfg.size)
        return 1.0

    stub.register()
    monkeypatch.setattr(trial_task, "time", SimpleNamespace(time=time.time, perf_counter=lambda: clock[0]))
    search = ("x=interval(0.5,2.0)", "size=1,2,3", "hydra.sweeper.n_trials=7", "hydra.sweeper.workers=4")
    multirun(tmp_path, *search, "hydra/launcher=stub", task=slow)
    launched = [[job["size"] for job in wave] for wave in stub.StubLauncher.waves]
    assert [Counter(wave) for wave in launched] == [Counter("123" * 3)] * 2 + [Counter("123")]
    assert launched[1] == ["3"] * 3 + ["2"] * 3 + ["1"] * 3


def test_workers_are_started_once_and_not_once_a_wave(tmp_path, run_python):
    search = ("x=interval(0.5,2.0)", "hydra.sweeper.n_trials=16", "hydra.sweep.dir=out", "pids=2", "sleep=0.2")
    done = run_python(APP, "-m", *search, *TWO_PROCESSES)
    assert done.returncode == 0, done.stderr
    pids = Counter((tmp_path / "pids.log").read_text().split())
    assert len(pids) == 2
    assert min(pids.values()) >= 4, "one worker did nearly everything"
