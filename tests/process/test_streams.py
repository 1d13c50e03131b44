"""A command does its work whatever its standard streams are connected to. Real processes, with real streams."""

import subprocess
import sys

import mlflow
import pytest

from pipeline.process import streams
from tests import outputs
from tests.conftest import copy_results, user_environment

SWEEP = "batch=64,128 budget.epochs=1 hydra.sweeper.n_trials=2 report.confirm.looks=[] -m"
ASCII_ALONE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def shell(tmp_path):
    """Run `python -m pipeline.COMMAND` through a shell that connects its streams; returns the finished process."""

    def run(command, redirected="", folder=tmp_path, encoding="utf-8", **environment):
        done = subprocess.run(
            ["bash", "-c", f'"{sys.executable}" -m pipeline.{command} {redirected}'],
            cwd=folder,
            env=user_environment(**environment),
            capture_output=True,
            encoding=encoding,
            timeout=240,
        )
        outputs.check(done.stdout, done.stderr, folder=folder)
        return done

    return run


def statuses(folder):
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("lr-batch")
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        pytest.param("train batch=128 budget.epochs=1", 1, id="run"),
        pytest.param("train batch=128 budget.epochs=1 runtime.workers=2", 1, id="workers", marks=pytest.mark.long),
        pytest.param(f"train {SWEEP}", 5, id="sweep", marks=pytest.mark.long),
    ],
)
def test_a_command_without_any_stream_does_its_work(shell, tmp_path, command, runs):
    done = shell(command, "<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert statuses(tmp_path) == ["FINISHED"] * runs


@pytest.mark.long
def test_a_run_goes_on_when_the_reader_of_its_lines_has_gone(shell, tmp_path):
    done = shell("train batch=128 budget.epochs=3", "| head -n 1; exit ${PIPESTATUS[0]}")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert statuses(tmp_path) == ["FINISHED"]


def test_a_report_says_that_a_full_disk_took_its_output(shell, tmp_path):
    (tmp_path / "runs.csv").write_text("batch,lr,value\n64,0.1,0.3\n64,0.2,0.2\n", encoding="utf-8")
    done = shell("report --table runs.csv", "> /dev/full")
    assert done.returncode == 1
    assert done.stderr == "The output could not be written: No space left on device.\n"


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONIOENCODING": "latin-1"}, id="latin-1", marks=pytest.mark.long),
        pytest.param({"PYTHONIOENCODING": "ascii"}, id="ascii", marks=pytest.mark.long),
        pytest.param(ASCII_ALONE, id="locale", marks=pytest.mark.long),
    ],
)
def test_what_an_encoding_lacks_has_stand_ins_and_files_are_utf_8_all_the_same(shell, swept, tmp_path, environment):
    folder = copy_results(swept.folder, tmp_path / "copy")
    (sweep,) = (path.name for path in (folder / "mlruns" / "sweeps").iterdir())
    files = "--html report.html --json report.json --figures figures"
    encoding = environment.get("PYTHONIOENCODING", "ascii")
    done = shell(f"report {sweep} {files}", folder=folder, encoding=encoding, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    table = done.stdout.splitlines()[1:5]
    assert len({len(line) for line in table}) == 1, "its columns are aligned"
    assert "..." in done.stdout, "for the … between two numbers"
    assert "…" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.long
def test_a_whole_sweep_runs_where_only_ascii_can_be_printed(shell, tmp_path):
    done = shell(f"train {SWEEP}", encoding="ascii", **ASCII_ALONE)
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == ["FINISHED"] * 5


@pytest.mark.parametrize(
    ("text", "encoding", "written"),
    [
        ("±×†…", "ascii", "+-x+..."),
        ("±×†…", "latin-1", "±×+..."),
        ("σ² of ηⱼ", "ascii", "sigma^2 of etaj"),
        ("Größe é", "ascii", "Gro?e e"),
        ("folder \udcff", "utf-8", "folder ?"),
        ("日本", "cp1252", "??"),
    ],
)
def test_each_character_has_a_stand_in(text, encoding, written):
    assert streams.in_encoding(text, encoding) == written
