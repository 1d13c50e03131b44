"""No two threads of a process import at once. Real processes, whose imports are written down."""

import os

import pytest

# Python imports `sitecustomize` at its start: it notes each module that begins while another thread imports one.
SITECUSTOMIZE = """
import importlib.machinery, os, sys, threading
importing = {}

class Watch(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = cls.watch(name, spec.loader.exec_module)
        return spec

    @staticmethod
    def watch(name, execute):
        def watched(module):
            thread = threading.current_thread().name
            own = importing.setdefault(thread, [])
            own.append(name)
            others = {other: names[-1] for other, names in list(importing.items()) if names and other != thread}
            if others or name.startswith("mlflow"):
                with open(f"{os.environ['IMPORTS']}/{os.getpid()}", "a") as file:
                    file.write(f"{thread} imports {name} beside {others}\\n" if others else f"{thread}: MLflow\\n")
            try:
                return execute(module)
            finally:
                own.pop()
        return watched

sys.meta_path[-1] = Watch
"""


SWEEP = "-m budget.epochs=1 hydra.sweeper.n_trials=2 report.confirm.looks=[]"


@pytest.mark.parametrize(
    ("request_", "processes"),
    [
        pytest.param("budget.epochs=2", 1, id="run"),
        pytest.param("budget.epochs=2 tracking.log_model=best", 1, id="run with a model", marks=pytest.mark.long),
        pytest.param(f"{SWEEP} batch=64,128 hydra.launcher.n_jobs=2", 3, id="sweep", marks=pytest.mark.long),
        pytest.param(f"{SWEEP} batch=64 hydra/launcher=basic", 1, id="one process", marks=pytest.mark.long),
    ],
)
def test_one_thread_of_a_process_imports_at_a_time(run_python, tmp_path, request_, processes):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    (tmp_path / "imports").mkdir()
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    paths = {"PYTHONPATH": path, "IMPORTS": str(tmp_path / "imports")}
    done = run_python("-m", "pipeline.train", *request_.split(), **paths)
    assert done.returncode == 0, done.stderr
    logs = [path.read_text(encoding="utf-8") for path in (tmp_path / "imports").iterdir()]
    assert sum("MLflow" in log for log in logs) == processes
    assert [line for log in logs for line in log.splitlines() if " beside " in line] == []
