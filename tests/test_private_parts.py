"""Private parts of other packages: each is marked in the source, and without it the work is slower, not wrong.

`git grep -A2 "Private part"` finds them all.
"""

import ast
import builtins
import contextlib
import importlib
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hydra.core.singleton import Singleton
from joblib import delayed
from joblib.externals.loky import reusable_executor
from sqlalchemy.exc import NoSuchModuleError
from torch import nn
from torch.optim import SGD, Optimizer

from lr_study import worker_processes
from pipeline.distributed.process_group import LoopbackStore, process_group
from pipeline.engine.optimizer_calls import step_function
from pipeline.errors import RequestError
from pipeline.sweep.preflight import _deaf_workers
from pipeline.tracking import loading
from pipeline.tracking.remote import check_not_local, no_local_artifacts
from pipeline.tracking.store import open_store

SOURCE = Path(__file__).resolve().parents[1] / "src"
OURS = ("pipeline", "lr_study", "hydra_plugins")
# Folders that their packages document nowhere. `hydra.core` is what Hydra's own launchers and sweepers are made with.
UNDOCUMENTED = ("mlflow.store", "mlflow.utils", "joblib.externals", "torch.distributed.distributed_c10d")
MARK, LINES_ABOVE = "Private part", 4
PUBLIC = {"_exit", "_target_", "_ArgumentGroup"}  # of os, of Hydra's configurations, and of argparse for annotations


def leans(tree):
    """(line, name) of each name of another package that starts with an underscore or lies in an undocumented folder."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_self(node.value)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not is_self(node.value) and node.attr not in own | PUBLIC:
            names = [node.attr] if not node.attr.startswith("__") else []
        elif isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] not in OURS:
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            names += ["_"] * node.module.startswith(UNDOCUMENTED)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            texts = [part.value for part in ast.walk(node.args[1]) if isinstance(part, ast.Constant)]
            names = [text for text in texts[:1] if not text.startswith("__")]
        else:
            names = []
        yield from ((node.lineno, name) for name in names if name.startswith("_") and name != "__future__")


def is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def test_each_private_part_of_another_package_is_marked_with_what_is_lost_without_it():
    unmarked, marked = [], 0
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for line, name in leans(ast.parse(text)):
            is_marked = any(MARK in above for above in lines[max(line - 1 - LINES_ABOVE, 0) : line])
            marked += is_marked
            if not is_marked:
                unmarked.append(f"{path.relative_to(SOURCE)}:{line}: {name}")
    assert unmarked == []
    assert marked >= 5  # the search finds what is there


@pytest.mark.parametrize(
    "line",
    [
        "from optuna.storages._rdb.models import BaseModel",
        "from mlflow.utils import validation",
        "parent._get_node(name)",
        "getattr(optimizer, f'_{when}_hooks')",
    ],
)
def test_the_search_finds_an_unmarked_one(line):
    assert list(leans(ast.parse(line))) != []


@pytest.fixture
def without(monkeypatch):
    """Let an import by this project's modules fail: `without("mlflow.store.…")`; other packages' go on."""

    def patch(name):
        def fails_for_ours(module, variables=None, *arguments):
            if module == name and variables is not None and variables["__name__"].startswith(OURS):
                raise ModuleNotFoundError(f"No module named {name!r}")
            return usual(module, variables, *arguments)

        usual = builtins.__import__
        monkeypatch.setattr(builtins, "__import__", fails_for_ours)

    return patch


# In a process of its own: other tests import the compiler.
BARE_TORCH = """
from torch.optim import SGD, Optimizer
for method in (Optimizer.add_param_group, Optimizer.state_dict, Optimizer.load_state_dict, SGD.step):
    del method.__wrapped__
from pipeline.engine.optimizer_calls import keep_compiler_unimported, step_function
from tests.test_private_parts import weights_after_steps
keep_compiler_unimported()
print(weights_after_steps(step_function).tolist())
"""


def test_without_torchs_wrappers_steps_and_the_compiler_are_torchs_own():
    done = subprocess.run(
        [sys.executable, "-c", BARE_TORCH], cwd=SOURCE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{weights_after_steps(step_function).tolist()}\n"


def test_without_torchs_lists_of_hooks_steps_go_through_its_wrappers(monkeypatch):
    def step_without(optimizer):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, Optimizer.__module__, types.ModuleType("empty"))
            step = step_function(optimizer)
        assert step == optimizer.step
        return step

    assert torch.equal(weights_after_steps(step_without), weights_after_steps(step_function))


def weights_after_steps(step_of):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = step_of(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        step()
    return model.weight.detach()


def test_without_a_timeout_that_can_be_changed_processes_meet_under_the_usual_one(monkeypatch):
    monkeypatch.delattr(dist, "set_timeout", raising=False)
    monkeypatch.delattr(dist.distributed_c10d, "_set_pg_timeout", raising=False)
    store = LoopbackStore()
    with process_group(store.client, 0, 1):
        dist.barrier()
    assert not dist.is_initialized()


def test_without_joblibs_executor_workers_are_left_to_end_by_themselves(monkeypatch):
    list(worker_processes.workers(2)(delayed(abs)(number) for number in (-1, -2)))
    alive = reusable_executor._executor._processes
    with monkeypatch.context() as patch:
        patch.delattr(reusable_executor, "_executor")
        worker_processes.dismiss_workers(at_once=True)
    assert alive
    assert all(process.is_alive() for process in alive.values())
    worker_processes.dismiss_workers(at_once=True)


def test_without_joblibs_tracker_the_check_starts_its_workers_all_the_same(without):
    without("joblib.externals.loky.backend.resource_tracker")
    with _deaf_workers():
        pass


class Launch:
    def run(self, number, overrides):
        return number, overrides


def test_without_hydras_list_of_singletons_a_job_runs_all_the_same(monkeypatch):
    monkeypatch.setattr(worker_processes, "end_with_driver", lambda: None)
    states = []
    monkeypatch.setattr(Singleton, "set_state", states.append)
    packed = pickle.dumps(Launch()), pickle.dumps({"another": "form"})
    assert worker_processes.run_packed(packed, 3, ["x=1"]) == (3, ["x=1"])
    assert states == [{"another": "form"}]


def test_without_scikit_learns_file_the_digits_are_read_by_its_function(monkeypatch, tmp_path):
    digits = importlib.import_module("pipeline.data.digits")  # the package has the function by this name
    read = digits._read.__wrapped__
    images, labels, digest = read()
    gone = types.SimpleNamespace(locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr(digits, "distribution", lambda package: gone)
    assert torch.equal(read()[0], images)
    assert torch.equal(read()[1], labels)
    assert read()[2] == digest


def test_without_its_modules_mlflow_is_loaded_all_the_same(monkeypatch):
    for name in loading.OF_DATABASES:
        monkeypatch.setitem(sys.modules, name, None)
    loading.load_mlflow("sqlite:///mlruns/mlflow.db")
    with pytest.raises(NoSuchModuleError):  # what comes after them is still done: a wrong address is noticed
        loading.load_mlflow("nosuch://host/name")


def test_without_mlflows_store_class_its_client_makes_the_database(without, tmp_path):
    without("mlflow.store.tracking.sqlalchemy_store")
    store = open_store(f"sqlite:///{tmp_path}/a b.db", "mine")
    assert store.client.get_experiment(store.experiment_id).name == "mine"


def test_without_mlflows_class_for_folders_nothing_of_a_servers_is_opened(without):
    without("mlflow.store.artifact.local_artifact_repo")
    with (
        pytest.raises(RequestError, match=r"(?s)can't be kept from.*constraints\.txt"),
        contextlib.ExitStack() as block,
    ):
        block.enter_context(no_local_artifacts("http://127.0.0.1:5000", ["/"]))
    with pytest.raises(RequestError, match="can't be kept from"):
        check_not_local("/home", ["/home"])
