"""Imports run one way, and what is heavy is imported only where it is needed."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
COMMANDS = {"train", "report", "advise", "sync", "reproduce", "sweep", "dry_run", "workload", "progress", "command"} | {
    "worker",
    "peers",
    "process_group",
    "torchrun",
    "child",
    "recording",
    "changes",
    "logged_config",
}
PARTS = {"engine", "tracking", "search", "analysis", "data", "models"}

# What each part may import of the others; `pure` modules are the rest of the package's top level.
ALLOWED = {
    "engine": {"data"},
    "data": set(),
    "models": set(),
    "tracking": {"analysis"},  # its table of runs is the analysis's
    "search": set(),
    "analysis": set(),
}
FOREIGN = {
    "engine": {"hydra", "omegaconf", "mlflow", "optuna"},
    "analysis": {"torch", "hydra", "omegaconf", "mlflow", "optuna"},
    "search": {"torch", "mlflow"},
    "tracking": {"torch", "optuna"},
    "data": {"hydra", "omegaconf", "mlflow", "optuna"},
    "models": {"hydra", "omegaconf", "mlflow", "optuna"},
}


def imports(path):
    """Modules that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_imports_only_what_lies_below_it(part):
    for path in (SOURCE / "pipeline" / part).rglob("*.py"):
        for module in imports(path):
            top, *rest = module.split(".")
            assert top not in FOREIGN[part], f"{path.name} imports {module}"
            if top == "pipeline" and rest[0] != part:
                assert rest[0] not in COMMANDS, f"{path.name} imports {module}"
                assert rest[0] not in PARTS or rest[0] in ALLOWED[part], f"{path.name} imports {module}"


@pytest.mark.parametrize("name", ["scaling", "schedule", "budget", "errors", "request"])
def test_pure_modules_import_no_part_and_no_framework(name):
    for module in imports(SOURCE / "pipeline" / f"{name}.py"):
        top, *rest = module.split(".")
        assert top not in {"torch", "hydra", "omegaconf", "mlflow", "optuna"}, module
        assert top != "pipeline" or rest[0] not in PARTS | COMMANDS, module


def test_mlflow_is_imported_only_by_tracking():
    for path in SOURCE.rglob("*.py"):
        if "tracking" not in path.parts:
            assert not [m for m in imports(path) if m.split(".")[0] == "mlflow"], path


def test_optuna_is_imported_only_by_search_and_the_sweeper():
    for path in SOURCE.rglob("*.py"):
        if "search" not in path.parts and "lr_study_sweeper" not in path.parts:
            assert not [m for m in imports(path) if m.split(".")[0] == "optuna"], path


def test_the_sweeper_imports_nothing_of_this_project():
    for path in (SOURCE / "hydra_plugins").rglob("*.py"):
        assert not [m for m in imports(path) if m.split(".")[0] == "pipeline"], path


def test_there_is_no_init_in_the_namespace_package():
    assert not (SOURCE / "hydra_plugins" / "__init__.py").exists()


def test_the_command_line_imports_neither_torch_nor_mlflow_nor_optuna():
    program = "import sys, json, pipeline.train; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert loaded.isdisjoint({"torch", "torchvision", "mlflow", "optuna", "sklearn", "scipy", "matplotlib"})
