"""No command leaves a file, a database or a process to Python's garbage collector or to the system.

Real processes, which say at their end what they still hold.
"""

import pytest

from tests.conftest import copy_results
from tests.integration.test_documented_commands import named

# Registered before all others, so that it runs last.
PROGRAM = """
import atexit, gc, os, sys

@atexit.register
def say_what_is_open():
    import psutil
    here = psutil.Process()
    files = [file.path for file in here.open_files() if not file.path.startswith(sys.prefix)]
    children = [" ".join(child.cmdline()) for child in here.children()]
    # Python's and joblib's trackers of shared memory end with the process, when their pipe closes.
    children = [command[-80:] for command in children if "resource_tracker" not in command]
    print("open at the end:", files, children, file=sys.stderr)

import runpy
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

SMALL = "batch=32 budget.epochs=1 report.confirm.looks=[] hydra.sweeper.n_trials=2"
DATABASE = "hydra.sweeper.storage=sqlite:///studies.db"


@pytest.mark.parametrize(
    ("command", "made_before"),
    [
        ("pipeline.train budget.epochs=1 tracking.checkpoints=last", None),
        pytest.param(f"pipeline.train -m hydra.launcher.n_jobs=2 {SMALL}", None, marks=pytest.mark.long),
        pytest.param(f"pipeline.train -m hydra.launcher.n_jobs=1 {SMALL} {DATABASE}", None, marks=pytest.mark.long),
        pytest.param("pipeline.report SWEEP", "swept", marks=pytest.mark.long),
        pytest.param("pipeline.sync", "trained", marks=pytest.mark.long),
        pytest.param("pipeline.reproduce RUN_ID", "trained", marks=pytest.mark.long),
    ],
    ids=["run", "sweep", "sweep in a database", "report", "sync", "reproduce"],
)
def test_a_command_closes_all_that_it_opened(command, made_before, tmp_path, request, run_python):
    folder = tmp_path / "here"
    if made_before is None:
        folder.mkdir()
    else:
        copy_results(request.getfixturevalue(made_before).folder, folder)
    words = [named(folder, word) for word in command.split()]
    done = run_python("-W", "always::ResourceWarning", "-c", PROGRAM, *words, folder=folder, fresh=True)
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr
    assert done.stderr.splitlines()[-1] == "open at the end: [] []"
