"""Run the fast tests with each set of versions that `pyproject.toml` claims: `python tests/environments.py`.

`lowest` has the lowest version of each direct dependency on the lowest claimed Python that is found here, `newest-3.X`
the newest versions on each other Python, or on that one if it is alone. The environments lie in `.venvs/`, with a log of each; uv links the files of all of
them to one cache, so that no version is downloaded twice. A table of the results is printed, and written to
`docs/results/environments.md`.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
FOLDER = HERE / ".venvs"
TABLE = HERE / "docs" / "results" / "environments.md"
FAST = ("-m", "pytest", "-m", "not slow and not cluster and not long")
SHOWN = ("torch", "mlflow", "optuna", "numpy", "scipy", "matplotlib")
TEXT = """# The environments that the tests run in

`make test-versions` wrote this table on {day}, on {machine}.
It runs the fast tests with the lowest versions that `pyproject.toml` allows for direct dependencies on the lowest Python, and with the newest versions on each higher one.
CI runs it for each change, beside `make test` with the versions in `constraints.txt`.

| environment | Python | {packages} | installed in | tests | tested in |
|---|---|{columns}---|---|---|
{rows}
"""


@dataclass(frozen=True)
class Environment:
    """Versions of Python and of packages; `python` is None where no such Python is found."""

    name: str
    resolution: str  # of uv
    minor: str
    python: Path | None


def main() -> None:
    """Make each environment, run the tests in it, write the table, and exit with 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="lowest, newest-3.13, … (default: all)")
    names = parser.parse_args().names
    environments = [e for e in claimed_environments() if not names or e.name in names]
    results = [run(environment) for environment in environments]
    packages, columns = " | ".join(SHOWN), "---|" * len(SHOWN)
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells, _ in results)
    machine = f"{platform.system()} {platform.machine()} with {os.cpu_count()} cores"
    text = TEXT.format(day=date.today(), machine=machine, packages=packages, columns=columns, rows=rows)
    print(text[text.index("| environment") :])
    if not names:
        TABLE.write_text(text, encoding="utf-8")
    sys.exit(not all(passed for _, passed in results))


def claimed_environments() -> list[Environment]:
    """Every environment that `pyproject.toml` claims, with the Python of each that is found here."""
    claimed = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    low, above = (int(text) for text in re.fullmatch(r">=3\.(\d+),<3\.(\d+)", claimed).groups())
    found = {f"3.{minor}": find_python(f"3.{minor}") for minor in range(low, above)}
    lowest, *others = sorted(found, key=lambda minor: (found[minor] is None, list(found).index(minor)))
    if all(found[minor] is None for minor in others):
        others.append(lowest)
    return [
        Environment("lowest", "lowest-direct", lowest, found[lowest]),
        *(Environment(f"newest-{minor}", "highest", minor, found[minor]) for minor in sorted(others)),
    ]


def find_python(minor: str) -> Path | None:
    """The interpreter of that Python, by its command; pyenv's command needs to be told which of its versions."""
    command = shutil.which(f"python{minor}")
    if command is None:
        return None
    done = subprocess.run(
        [command, "-c", "import sys; print(sys.executable)"],
        env=os.environ | {"PYENV_VERSION": minor},
        capture_output=True,
        text=True,
        check=False,
    )
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def run(environment: Environment) -> tuple[list[str], bool]:
    """Install an environment and run the tests in it: the cells of its row, and whether it passed or isn't there."""
    if environment.python is None:
        print(f"{environment.name}: no python{environment.minor} is found here; skipped.", flush=True)
        return [environment.name, f"{environment.minor} not found", *["–"] * len(SHOWN), "–", "skipped", "–"], True
    print(f"{environment.name}: installing …", flush=True)
    started = time.monotonic()
    interpreter = install(environment)
    installed = time.monotonic()
    versions = {p["name"]: p["version"] for p in json.loads(uv("pip", "list", "--format=json", python=interpreter))}
    log = FOLDER / f"{environment.name}.log"
    print(f"{environment.name}: testing; {log.relative_to(HERE)} …", flush=True)
    with open(log, "w", encoding="utf-8") as file:
        code = subprocess.run([str(interpreter), *FAST], cwd=HERE, stdout=file, stderr=file, check=False).returncode
    ended = time.monotonic()
    lines = log.read_text(encoding="utf-8").splitlines()
    summary = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), "no test ran")
    if code:
        print("\n".join(line for line in lines if line.startswith(("FAILED", "ERROR"))), flush=True)
    print(f"{environment.name}: {summary}", flush=True)
    shown = [versions.get(name, "–") for name in SHOWN]
    python = subprocess.check_output([str(interpreter), "-c", "import platform; print(platform.python_version())"])
    tests = re.sub(r"^=+ | in [\d.]+s.*$", "", summary)
    seconds = [f"{installed - started:.0f} s", tests, f"{ended - installed:.0f} s"]
    return [environment.name, python.decode().strip(), *shown, *seconds], code == 0


def install(environment: Environment) -> Path:
    """Make or update the environment; returns its interpreter."""
    folder, versions = FOLDER / environment.name, FOLDER / f"{environment.name}.txt"
    FOLDER.mkdir(exist_ok=True)
    uv("venv", "--allow-existing", "--python", str(environment.python), str(folder))
    interpreter = folder / "bin" / "python"
    uv(
        *("pip", "compile", "--upgrade", "--extra", "dev", "--resolution", environment.resolution),
        *("--output-file", str(versions), "pyproject.toml"),
        python=interpreter,
    )
    uv("pip", "sync", "--compile-bytecode", str(versions), python=interpreter)  # as pip does; else each process would
    uv("pip", "install", "--no-deps", "--editable", ".", python=interpreter)
    return interpreter


def uv(*arguments: str, python: Path | None = None) -> str:
    """Call uv, which lies beside this Python; its output if all went well, else it is shown and this process ends."""
    more = [] if python is None else ["--python", str(python)]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("uv")), *arguments, *more, "--quiet"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"uv {' '.join(arguments)} failed:\n{done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
