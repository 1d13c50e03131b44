"""The house's rules: imports run one way by package, files are of a readable size, heavy imports stay out of the way."""

import ast
import graphlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
TESTS = Path(__file__).resolve().parent
LONGEST_MODULE = 250
MOST_FILES_AT_THE_TOP = 10

# Each package of `pipeline`, and what it may import of the others. `commands` are the modules at the top, but for those
# that everything may import: `errors` and `process`.
MAY_IMPORT = {
    "recipe": set(),
    "models": set(),
    "data": set(),
    "config": {"recipe"},
    "distributed": set(),
    "engine": {"recipe", "data", "distributed"},
    "search": {"recipe"},
    "analysis": {"recipe"},
    "tracking": {"recipe", "analysis"},  # for the statuses and the table of runs
    "run": {"recipe", "config", "data", "distributed", "engine", "tracking", "analysis"},
    "sweep": {"recipe", "config", "distributed", "tracking", "analysis", "engine", "run"},
    "reproduction": {"config", "data", "models", "engine", "tracking", "analysis", "run"},
    "commands": {"recipe", "config", "engine", "tracking", "analysis", "run", "sweep", "reproduction"},
}
FOR_ALL = {"errors", "process"}

# Which packages may import a framework, anywhere in a file.
FRAMEWORKS = {
    "torch": {"data", "models", "distributed", "engine", "run", "reproduction"},
    "torchvision": {"data", "models", "reproduction"},
    "hydra": {"config", "run", "sweep", "commands", "lr_study", "hydra_plugins"},
    "omegaconf": {"config", "run", "sweep", "reproduction", "commands", "lr_study", "hydra_plugins"},
    "mlflow": {"tracking"},
    "optuna": {"search", "lr_study"},
}
# What other packages may import of the sweeper: all of it is for `sweep`, these helpers are for everybody.
SWEEPER_FOR_ALL = {"lr_study.masking", "lr_study.available_cores", "lr_study.errors", "lr_study.reason_of"}
SWEEPER_IMPORTERS = {"run", "sweep", "commands"}


def modules():
    """(dotted name, path) of every module in `src`."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path):
    """Names that a file imports, at the top or inside functions, but not for type checkers alone."""
    tree = ast.parse(path.read_text())
    unused = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unused:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(name):
    """The package that a dotted name belongs to, in the words of the tables above."""
    top, *rest = name.split(".")
    if top != "pipeline":
        return top
    if not rest:
        return "pipeline"
    return rest[0] if rest[0] in MAY_IMPORT or rest[0] in FOR_ALL else "commands"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package):
    for name, path in modules():
        if package_of(name) != package:
            continue
        for imported in imports(path):
            if imported.split(".")[0] == "pipeline":
                allowed = MAY_IMPORT[package] | FOR_ALL | {package}
                assert package_of(imported) in allowed, f"{name} imports {imported}"


def test_the_packages_form_no_circle():
    list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())


def test_no_modules_import_each_other_in_a_circle():
    known = dict(modules())
    graph = {}
    for name, path in known.items():
        found = {imported if imported in known else imported.rpartition(".")[0] for imported in imports(path)}
        # A package's own face imports its modules, and they may name the package of what they import.
        graph[name] = {other for other in found & set(known) if other != name and not name.startswith(f"{other}.")}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_is_imported_only_where_it_belongs(framework):
    for name, path in modules():
        if framework in {imported.split(".")[0] for imported in imports(path)}:
            assert package_of(name) in FRAMEWORKS[framework], f"{name} imports {framework}"


def test_the_sweeper_imports_nothing_of_this_project():
    for name, path in modules():
        if package_of(name) in {"lr_study", "hydra_plugins"}:
            assert not [imported for imported in imports(path) if imported.split(".")[0] == "pipeline"], name


def test_of_the_sweeper_most_packages_import_its_helpers_alone():
    for name, path in modules():
        if package_of(name) in SWEEPER_IMPORTERS | {"lr_study", "hydra_plugins"}:
            continue
        for imported in imports(path):
            if imported.split(".")[0] == "lr_study":
                assert imported.startswith(tuple(SWEEPER_FOR_ALL)), f"{name} imports {imported}"


def test_modules_are_short_and_few_lie_at_the_top():
    too_long = {name: len(path.read_text().splitlines()) for name, path in modules()}
    assert {name: lines for name, lines in too_long.items() if lines > LONGEST_MODULE} == {}
    assert len(list((SOURCE / "pipeline").glob("*.py"))) <= MOST_FILES_AT_THE_TOP


def test_there_is_no_init_in_the_namespace_package():
    assert not (SOURCE / "hydra_plugins" / "__init__.py").exists()


def test_the_command_line_imports_neither_torch_nor_mlflow_nor_optuna():
    program = "import sys, json, pipeline.train; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert loaded.isdisjoint({"torch", "torchvision", "mlflow", "optuna", "sklearn", "scipy", "matplotlib"})


def test_every_test_of_a_command_looks_at_what_it_prints():
    """`subprocess` itself starts other programs alone; the commands start through `tests.outputs` or the fixtures."""
    for path in sorted(TESTS.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) not in ("subprocess.run", "subprocess.Popen"):
                continue
            call = ast.unparse(node)
            if "'pipeline." in call or "APP" in call or "pipeline.{" in call:
                function = next(
                    f
                    for f in ast.walk(ast.parse(source))
                    if isinstance(f, ast.FunctionDef) and f.lineno <= node.lineno <= f.end_lineno
                )
                assert "outputs.check(" in ast.unparse(function), f"{path}:{node.lineno}"
