"""A damaged journal: the line is named, nothing is written, and the command that is shown goes on from there."""

import shutil
import subprocess

import pytest

from lr_study.errors import SweepFailedError, SweepRequestError
from pipeline import train
from tests.lr_study.inprocess import multirun, parabola, table, trials_of
from tests.lr_study.test_resume import SEARCH, check_complete, lines_of_a_dead_process

JOURNAL = "out/optuna.journal"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished sweep of `SEARCH`, whose driver is dead; copy it before you change it."""
    folder = tmp_path_factory.mktemp("finished") / "whole"
    multirun(folder, *SEARCH)
    forget_driver(folder)
    return folder


def lines_of(folder):
    return (folder / JOURNAL).read_bytes().splitlines(keepends=True)


def forget_driver(folder):
    """Make the journal that of another process, which is dead: this one lives on, and would be in the way."""
    (folder / JOURNAL).write_bytes(b"".join(lines_of_a_dead_process(folder / JOURNAL)))


def go_on(folder, message):
    """Do in a shell what the message says."""
    (command,) = [line for line in message.splitlines() if line.startswith("Go on with: ")]
    command = command.removeprefix("Go on with: ").removesuffix(", then the same command.")
    subprocess.run(command, shell=True, cwd=folder, check=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:20], b"<<<<<<< HEAD\n", *lines[20:]],
        lambda lines: [*lines[:20], b"\n", *lines[20:]],
        lambda lines: [*lines[:20], lines[20][:30] + b"\n", *lines[21:]],
        lambda lines: [*lines[:20], bytes(range(128, 256)) + b"\n", *lines[20:]],
        lambda lines: [*lines[:20], b"\0" * 99 + b"\n"],
        lambda lines: [*lines[:20], b"17\n", *lines[20:]],
        lambda lines: [*lines[:20], b'{"step":1}\n', *lines[20:]],
        lambda lines: [*lines[:20], b'{"op_code":4,"worker_id":"w"}\n', *lines[20:]],
        lambda lines: [*lines[:20], b'{"op_code":77,"worker_id":"w"}\n', *lines[20:]],
        lambda lines: [*lines[:20], b'{"op_code":0,"worker_id":"w","study_name":"s","directions":[9]}\n', *lines[20:]],
        lambda lines: [*lines[:20], b"[" * 100_000 + b"\n"],
    ],
    ids=[
        *("text", "empty line", "line cut in the middle", "binary", "zeros at the end", "number", "no record"),
        *("record without its keys", "unknown operation", "impossible value", "endless nesting"),
    ],
)
def test_a_damaged_line_is_named_and_the_command_shown_goes_on_from_it(tmp_path, finished, damage):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    damaged = b"".join(damage(lines_of(tmp_path)))
    (tmp_path / JOURNAL).write_bytes(damaged)
    with pytest.raises(SweepRequestError, match=f"storage={JOURNAL}: line 21 is damaged") as refused:
        multirun(tmp_path, *SEARCH)
    assert (tmp_path / JOURNAL).read_bytes() == damaged
    assert all(len(line) < 200 for line in str(refused.value).splitlines())
    go_on(tmp_path, str(refused.value))
    assert lines_of(tmp_path) == lines_of(finished)[:20]
    assert (tmp_path / f"{JOURNAL}.damaged").read_bytes() == damaged
    multirun(tmp_path, *SEARCH)
    check_complete(tmp_path, table(finished))


def test_a_garbage_line_at_the_end_is_refused_by_the_command_in_two_lines(call_command, tmp_path, finished):
    (tmp_path / "mlruns").mkdir()
    journal = tmp_path / "mlruns" / "optuna.journal"
    journal.write_bytes(before := b"".join([*lines_of(finished), b"garbage\n"]))
    count = len(lines_of(finished))
    done = call_command(train.main, "-m", "batch=64")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        f"hydra.sweeper.storage=mlruns/optuna.journal: line {count + 1} is damaged. "
        "Trials recorded before it are kept, later ones are run again.",
        "Go on with: mv mlruns/optuna.journal mlruns/optuna.journal.damaged && "
        f"head -n {count} mlruns/optuna.journal.damaged > mlruns/optuna.journal, then the same command.",
    ]
    assert [path.name for path in (tmp_path / "mlruns").iterdir()] == ["optuna.journal"]
    assert journal.read_bytes() == before


@pytest.mark.parametrize("garbage", [b"garbage\n", b"17\n", b'{"op_code":77,"worker_id":"w"}\n'])
def test_damage_that_appears_while_the_sweep_runs_ends_it_with_the_line(tmp_path, finished, garbage):
    written = []

    def task(cfg):
        if len(written) == 3:
            with open(tmp_path / JOURNAL, "ab") as journal:
                journal.write(garbage)
        written.append(cfg)
        return parabola(cfg)

    with pytest.raises(SweepFailedError, match=r"line \d+ is damaged") as failed:
        multirun(tmp_path, *SEARCH, task=task)
    line = lines_of(tmp_path).index(garbage) + 1
    assert f"line {line} is damaged" in str(failed.value)
    go_on(tmp_path, str(failed.value))
    assert len(trials_of(tmp_path)) >= 3
    forget_driver(tmp_path)
    multirun(tmp_path, *SEARCH)
    assert table(tmp_path) == table(finished)


def test_the_command_is_quoted_for_the_shell(tmp_path, finished):
    storage = "it's $HOME.journal"
    (tmp_path / storage).write_bytes(b"".join([*lines_of(finished), b"garbage\n"]))
    with pytest.raises(SweepRequestError, match="is damaged") as refused:
        multirun(tmp_path, *SEARCH, f'hydra.sweeper.storage="{storage}"')
    go_on(tmp_path, str(refused.value))
    assert (tmp_path / storage).read_bytes() == b"".join(lines_of(finished))


def test_a_record_of_a_trial_that_does_not_exist_is_skipped_as_optuna_skips_it(tmp_path, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    with open(tmp_path / JOURNAL, "ab") as journal:
        journal.write(b'{"op_code":6,"worker_id":"w","trial_id":999,"state":1,"values":[1.0]}\n')
    multirun(tmp_path, *SEARCH)
    assert table(tmp_path) == table(finished)
    assert len(trials_of(tmp_path)) == 7


def test_a_plain_grid_starts_afresh_over_a_damaged_journal(tmp_path):
    for _ in range(2):
        returned = multirun(tmp_path, "size=1,2")
        assert sum(len(batch) for batch in returned) == 2, "both jobs were run"
        with open(tmp_path / "out" / "grid.journal", "ab") as journal:
            journal.write(b"garbage\n")
