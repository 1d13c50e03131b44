"""What a Mac lacks isn't needed: /proc, the cores that a process may use, glibc's malloc and the start method `fork`.

Real processes, from which these are taken away. And file names are of characters that every system takes.
"""

import os
import re

import pytest

from pipeline.analysis.runs import workload_file_name
from pipeline.tracking.store import folder_name

# Python imports `sitecustomize` at its start. What other packages read of /proc stays: psutil's way on a Mac is another.
SITECUSTOMIZE = """
import ctypes, multiprocessing, os, sys

del os.sched_getaffinity
multiprocessing.set_start_method("spawn")

def is_ours(depth=2):
    frame = sys._getframe(depth)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("pathlib", "io", "os", "codecs")):
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__", "").startswith(("pipeline", "lr_study"))

def refuse_proc(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc/") and is_ours():
        raise FileNotFoundError(2, "No such file or directory", arguments[0])
sys.addaudithook(refuse_proc)

readlink = os.readlink
def readlink_without_proc(path, **more):
    if str(path).startswith("/proc/") and is_ours():
        raise FileNotFoundError(2, "No such file or directory", path)
    return readlink(path, **more)
os.readlink = readlink_without_proc

class NoGlibc(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "gnu_get_libc_version":
            raise AttributeError(name)
        return super().__getattr__(name)
ctypes.CDLL = NoGlibc
"""
FORBIDDEN = r'[<>:"\\|?*\x00-\x1f]|[. ]$'  # by Windows, whose discs others read and write too


@pytest.fixture
def on_another_system(run_python, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return lambda *arguments: run_python(*arguments, PYTHONPATH=path)


def test_there_the_parts_of_linux_are_missing(on_another_system):
    program = (
        "from lr_study import process; from pipeline.tracking import environment\n"
        "print(process._read('/proc/self/stat') == '', 'model name' in environment.cpu_model(), process.machine())\n"
        "print(process.available_cores())"
    )
    done = on_another_system("-c", program)
    (first, cores) = done.stdout.splitlines()
    assert first.startswith("True False ")
    assert len(first.split()) == 3  # the host alone: no boot id, no namespace
    assert int(cores) == os.cpu_count()


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("batch=256 model=simple_cnn budget.epochs=1", id="run"),
        pytest.param("budget.epochs=1 runtime.workers=2", id="two workers", marks=pytest.mark.long),
        pytest.param(
            "-m batch=32,64 budget.epochs=1 report.confirm.looks=[] hydra.sweeper.n_trials=2 hydra.launcher.n_jobs=2",
            id="sweep",
            marks=pytest.mark.long,
        ),
    ],
)
def test_commands_work_there(on_another_system, command):
    done = on_another_system("-m", "pipeline.train", *command.split())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("made", ["trained", "swept"])
def test_file_names_have_no_character_that_another_system_refuses(request, made):
    names = [path.name for path in request.getfixturevalue(made).folder.rglob("*")]
    assert len(names) > 10
    assert [name for name in names if re.search(FORBIDDEN, name)] == []


@pytest.mark.parametrize("name", ['a:b', "a/b", r"a\b", 'a"b', "a*b?", "a<b>|c", "ends with a dot.", " ", "tab\there"])  # fmt: skip
def test_names_that_a_user_gives_become_such_names(name):
    for made in (folder_name(name), workload_file_name(name)):
        assert made
        assert not re.search(FORBIDDEN, made)
