"""Resuming: whatever is killed, and when, the same command ends with the table of an uninterrupted sweep."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from lr_study.errors import SweepRequestError
from lr_study.storage import open_storage
from tests import outputs
from tests.lr_study.app import hand_out_tickets, wait_until
from tests.lr_study.inprocess import multirun, table, trials_of
from tests.lr_study.test_sweeper import count_runs

APP = str(Path(__file__).parent / "app.py")
SEARCH = ("x=tag(log,interval(0.125,8.0))", "seed=0,1,2", "hydra.sweeper.n_trials=7", "hydra.sweeper.workers=2")
# The id of no process, for the leases in a journal that this process has written.
DEAD = 2**22 - 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished sweep of `SEARCH`; copy it before you change it."""
    folder = tmp_path_factory.mktemp("finished") / "whole"
    multirun(folder, *SEARCH)
    return folder


def lines_of_a_dead_process(journal):
    """A journal's lines, as if another process had written them and died."""
    return [
        re.sub(rb'"pid": ?\d+', b'"pid":%d' % DEAD, line) for line in journal.read_bytes().splitlines(keepends=True)
    ]


def check_complete(folder, expected, n_trials=7):
    trials = trials_of(folder)
    assert table(folder) == expected
    assert [t.number for t in trials] == list(range(len(trials)))
    assert all(t.state.is_finished() for t in trials)
    assert len(table(folder)) == n_trials
    for lost in (t for t in trials if t.user_attrs.get("lost")):
        (retry,) = [t for t in trials if t.user_attrs.get("retry_of") == lost.number]
        assert (retry.params, retry.user_attrs["replicate"]) == (lost.params, lost.user_attrs["replicate"])


@pytest.mark.parametrize(
    ("sampler", "every"),
    [("tpe", 9), pytest.param("tpe", 1, marks=pytest.mark.long), ("qmc", 17), ("cmaes", 17)],
)
def test_a_sweep_killed_after_any_record_ends_with_the_same_table(tmp_path, sampler, every):
    search = (*SEARCH, f"hydra/sweeper/sampler={sampler}")
    multirun(tmp_path / "whole", *search)
    expected = table(tmp_path / "whole")
    assert len({str(row[1]) for row in expected.values()}) >= 6  # different points
    lines = lines_of_a_dead_process(tmp_path / "whole" / "out" / "optuna.journal")
    for count in range(0, len(lines), every):
        folder = tmp_path / f"cut{count}"
        (folder / "out").mkdir(parents=True)
        (folder / "out" / "optuna.journal").write_bytes(b"".join(lines[:count]))
        multirun(folder, *search)
        check_complete(folder, expected)


@pytest.mark.parametrize("every", [47, pytest.param(3, marks=pytest.mark.long)])
def test_a_sweep_is_resumed_from_a_journal_cut_at_any_byte_of_its_last_record(tmp_path, finished, every):
    expected = table(finished)
    lines = lines_of_a_dead_process(finished / "out" / "optuna.journal")
    last = max(i for i, line in enumerate(lines) if b'"op_code":4' in line)
    whole = b"".join(lines[: last + 1])
    for cut in range(1, len(lines[last]), every):
        folder = tmp_path / f"cut{cut}"
        (folder / "out").mkdir(parents=True)
        (folder / "out" / "optuna.journal").write_bytes(whole[:-cut])
        multirun(folder, *SEARCH)
        check_complete(folder, expected)


def test_an_incomplete_record_of_any_length_is_removed(tmp_path):
    journal = tmp_path / "optuna.journal"
    storage = open_storage(str(journal))
    storage.create_new_study([1], "first")
    intact = journal.read_bytes()
    storage.create_new_study([1], "second")
    whole = journal.read_bytes()
    for end in range(len(intact), len(whole)):
        journal.write_bytes(whole[:end])
        open_storage.cache_clear()
        again = open_storage(str(journal))
        again.create_new_study([1], "third")
        assert [s.study_name for s in again.get_all_studies()] == ["first", "third"]


def test_more_trials_are_added_later_with_the_next_numbers(tmp_path, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    first = table(tmp_path)
    multirun(tmp_path, *SEARCH, "hydra.sweeper.n_trials=10")
    assert {slot: row for slot, row in table(tmp_path).items() if slot < 7} == first
    assert [t.number for t in trials_of(tmp_path)] == list(range(10))
    assert sorted(table(tmp_path)) == list(range(10))


def test_another_configuration_under_the_same_name_is_refused_with_the_difference(tmp_path, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    with pytest.raises(SweepRequestError, match=r"sleep: 0\.0, now 0\.5"):
        multirun(tmp_path, *SEARCH, "sleep=0.5")
    assert len(trials_of(tmp_path)) == 7
    multirun(tmp_path, *SEARCH, "sleep=0.5", "hydra.sweeper.may_change=[sleep]")


@pytest.mark.parametrize(
    ("asked", "now"),
    [
        ("x=tag(log,interval(0.25,8.0))", r"tag\(log,interval\(0\.25,8\.0\)\)"),
        ("x=interval(0.125,8.0)", r"interval\(0\.125,8\.0\)"),
        ("x=tag(log,int(interval(1,8)))", r"tag\(log,interval\(1,8\)\)"),
    ],
)
def test_another_interval_or_scale_under_the_same_name_is_refused_with_the_difference(tmp_path, finished, asked, now):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "out" / "optuna.journal").read_bytes()
    with pytest.raises(SweepRequestError, match=rf"x: tag\(log,interval\(0\.125,8\.0\)\), now {now}"):
        multirun(tmp_path, asked, *SEARCH[1:])
    assert (tmp_path / "out" / "optuna.journal").read_bytes() == before


def test_a_key_that_is_searched_now_and_had_a_value_before_is_refused_with_the_difference(tmp_path, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    with pytest.raises(SweepRequestError, match=r"sleep: 0\.0, now interval\(0\.0,0\.1\)"):
        multirun(tmp_path, *SEARCH, "sleep=interval(0,0.1)")


def test_an_interval_written_in_another_way_is_the_same(tmp_path, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    multirun(tmp_path, "x=tag(log, interval(1.25e-1, 8))", *SEARCH[1:])
    assert table(tmp_path) == table(finished)


def test_an_interval_that_was_widened_is_no_difference(tmp_path):
    search = ("x=tag(log,interval(1.0,2.0))", "size=100", "hydra.sweeper.widenings=3")
    multirun(tmp_path, *search, "hydra.sweeper.n_trials=10")
    assert max(t.params["x"] for t in trials_of(tmp_path)) > 2
    multirun(tmp_path, *search, "hydra.sweeper.n_trials=11")
    assert len(trials_of(tmp_path)) == 11


def test_a_study_of_an_older_version_without_its_intervals_is_resumed_and_gets_them(tmp_path, finished):
    journal = tmp_path / "out" / "optuna.journal"
    journal.parent.mkdir()
    lines = [
        line for line in lines_of_a_dead_process(finished / "out" / "optuna.journal") if b'"intervals"' not in line
    ]
    journal.write_bytes(b"".join(lines))
    multirun(tmp_path, *SEARCH)
    assert table(tmp_path) == table(finished)
    with pytest.raises(SweepRequestError, match=r"now interval\(0\.125,8\.0\)"):
        multirun(tmp_path, "x=interval(0.125,8.0)", *SEARCH[1:])


@pytest.mark.parametrize(
    ("option", "trials"),
    [
        ("hydra/sweeper/sampler=random", 9),
        ("hydra/sweeper/pruner=median", 9),
        ("hydra.sweeper.seed=5", 9),
        ("hydra.sweeper.widenings=2", 9),
        ("hydra.sweeper.max_failure_rate=1", 5),  # fewer than before: nothing is run, and nothing forgotten
    ],
)
def test_what_chooses_the_next_trials_may_change_when_a_sweep_is_resumed(tmp_path, finished, option, trials):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    multirun(tmp_path, *SEARCH, option, f"hydra.sweeper.n_trials={trials}")
    rows = table(tmp_path)
    assert len(rows) == max(7, trials)
    assert {slot: rows[slot] for slot in range(7)} == table(finished)


def kill_again_and_again(folder, command, shares):
    """Start the command and kill it with its workers, once for each number of trials in `shares`; then let it end.

    Returns:
        The last process.
    """
    for share in shares:
        begun = count_runs(folder)
        hand_out_tickets(folder / "tickets", share)
        driver = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            # One more trial than there are tickets is running when the signal comes.
            wait_until(lambda goal=begun + share: count_runs(folder) > goal, f"{share} trials and one more")
        finally:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
    hand_out_tickets(folder / "tickets", 100)
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False, timeout=240)
    outputs.check(done.stdout, done.stderr, folder=folder)
    return done


@pytest.mark.long
def test_a_sweep_and_its_workers_killed_again_and_again_end_with_the_same_table(tmp_path):
    overrides = ("hydra.sweep.dir=out", "hydra.sweep.subdir=.", "hydra.sweeper.replicate_key=seed", *SEARCH)
    overrides += ("hydra/launcher=processes", "hydra.launcher.n_jobs=2", "tickets=tickets", "hydra.sweeper.n_trials=12")
    command = [sys.executable, APP, "-m", *overrides]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    hand_out_tickets(tmp_path / "whole" / "tickets", 12)
    assert subprocess.run(command, cwd=tmp_path / "whole", check=False, capture_output=True).returncode == 0
    done = kill_again_and_again(tmp_path / "killed", command, (2, 3, 2))
    assert done.returncode == 0, done.stderr
    assert sum(bool(t.user_attrs.get("lost")) for t in trials_of(tmp_path / "killed")) >= 3
    check_complete(tmp_path / "killed", table(tmp_path / "whole"), n_trials=12)


@pytest.mark.long
def test_a_worker_killed_while_it_writes_loses_only_its_own_trial(tmp_path, run_python):
    overrides = ("hydra.sweep.dir=out", "hydra.sweep.subdir=.", "hydra.sweeper.replicate_key=seed", *SEARCH)
    done = run_python(APP, "-m", *overrides, "hydra/launcher=processes", "hydra.launcher.n_jobs=2", "fails=tear")
    assert done.returncode == 0, done.stderr
    states = [t.state for t in trials_of(tmp_path)]
    assert states == [TrialState.FAIL if t % 3 == 1 else TrialState.COMPLETE for t in range(7)]


def test_a_trial_whose_driver_dies_each_time_fails_in_the_end(tmp_path, finished):
    lines = lines_of_a_dead_process(finished / "out" / "optuna.journal")
    first_end = next(i for i, line in enumerate(lines) if b'"op_code":6' in line)
    journal = tmp_path / "out" / "optuna.journal"
    journal.parent.mkdir()
    journal.write_bytes(b"".join(lines[:first_end]))

    def dies(cfg):
        raise KeyboardInterrupt

    for _ in range(2):
        # Interruptions don't count against the trial, deaths do.
        with pytest.raises(KeyboardInterrupt):
            multirun(tmp_path, *SEARCH, task=dies)
        text = b"".join(lines_of_a_dead_process(journal)).replace(b'"interrupted":true', b'"by hand":true')
        journal.write_bytes(text)
    multirun(tmp_path, *SEARCH)
    failed = [t for t in trials_of(tmp_path) if t.state is TrialState.FAIL and not t.user_attrs.get("lost")]
    assert len(failed) <= 1


def started(folder, *overrides):
    """Start a driver in the background, on a database in `folder`."""
    common = ("hydra.sweep.dir=out", "hydra.sweep.subdir=.", "hydra.sweeper.replicate_key=seed")
    storage = f"hydra.sweeper.storage=sqlite:///{folder}/optuna.db"
    return outputs.CheckedPython(
        APP, "-m", *common, storage, *SEARCH, *overrides, folder=folder, stdout=subprocess.DEVNULL
    )


def database_study(folder):
    return optuna.load_study(study_name="app", storage=f"sqlite:///{folder}/optuna.db")


def database_table(folder):
    study = database_study(folder)
    counted = [t for t in study.trials if not t.user_attrs.get("lost") and not t.user_attrs.get("void")]
    assert all(t.state.is_finished() for t in study.trials)
    return sorted(t.user_attrs["slot"] for t in counted), study.trials


def drivers_of(folder):
    """The drivers that have made a trial by now. Before the first trial, looking would make the database."""
    if not count_runs(folder):
        return set()
    with contextlib.suppress(Exception):  # a driver is writing
        return {str(t.user_attrs.get("driver")) for t in database_study(folder).trials}
    return set()


@pytest.mark.parametrize(
    "kill_one", [pytest.param(False, marks=pytest.mark.long), pytest.param(True, marks=pytest.mark.long)]
)
def test_drivers_on_one_database_share_the_trials_and_take_over_those_of_a_dead_driver(tmp_path, kill_one):
    drivers = [started(tmp_path, "tickets=tickets", "hydra.sweeper.n_trials=18") for _ in range(2)]
    try:
        wait_until(lambda: len(drivers_of(tmp_path)) == 2, "the second driver")
        if kill_one:
            drivers[0].kill()
        hand_out_tickets(tmp_path / "tickets", 100)
        ends = [driver.communicate(timeout=240)[1] for driver in drivers]
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()
    assert drivers[1].returncode == 0, ends[1]
    assert kill_one or drivers[0].returncode == 0, ends[0]
    slots, trials = database_table(tmp_path)
    assert slots == list(range(18))
    runs = count_runs(tmp_path)
    lost = sum(bool(t.user_attrs.get("lost")) for t in trials)
    assert 18 <= runs <= 18 + lost  # a lost trial may not have begun
    assert len({str(t.user_attrs["driver"]) for t in trials}) == 2
