"""A fork does what a new interpreter does, and an unhandled error in what it prints fails the test."""

import signal

import pytest

from tests import outputs

PROGRAM = """
import atexit, os, sys
atexit.register(print, "ended")
print(os.getcwd(), sys.argv, __name__, sys.path[0], os.environ.get("MLFLOW_TRACKING_URI"))
exec(sys.argv[1])
"""


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    ("statement", "code", "says"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
    ],
)
def test_programs_have_their_own_folder_arguments_and_end(run_python, tmp_path, statement, code, says, fresh):
    done = run_python("-c", PROGRAM, statement, fresh=fresh)
    assert (done.returncode, done.stderr) == (code, says)
    ended = "" if code == -signal.SIGKILL else "ended\n"
    begun = f"{tmp_path} {['-c', statement]} __main__  None\n"
    assert done.stdout in (begun + ended, ended)  # what a killed process had not written yet is lost


def test_a_script_and_a_module_run_as_main_with_their_folder_on_the_path(run_python, tmp_path):
    (tmp_path / "other.py").write_text("name = 'other'\n")
    (tmp_path / "script.py").write_text("import other, sys; print(__name__, other.name, sys.argv)\n")
    assert run_python("script.py", "a").stdout == "__main__ other ['script.py', 'a']\n"
    assert run_python("-m", "script", "a").stdout == f"__main__ other {[f'{tmp_path}/script.py', 'a']}\n"


def test_a_background_process_is_read_line_by_line_and_killed(start_python):
    process = start_python("-c", "import time; print('begun', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "begun\n"
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL


@pytest.mark.parametrize(
    "program",
    [
        "1 / 0",
        "import threading; thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()",
        "class A:\n    def __del__(self): 1 / 0\nA()",
    ],
)
def test_an_unhandled_error_in_what_is_printed_fails_the_test(run_python, program):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_python("-c", program)
    assert "ZeroDivisionError" in run_python("-c", program, allow={"traceback": "it is looked for"}).stderr
    outputs.check("an ordinary line")
