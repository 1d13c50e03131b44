"""Each command of README.md and docs/*.md runs, with small budgets, and prints no traceback."""

import re
import shlex

import pytest

from pipeline.tracking.store import open_existing_store
from tests.conftest import REPOSITORY, copy_results

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
ONE_EPOCH = ("budget.epochs=1", "noise_scale.epochs=[]")
# A sweep of one cell with two workers: one of them has no configuration to check.
SMALL_SWEEP = (*ONE_EPOCH, "hydra.sweeper.n_trials=2", "report.confirm.looks=[]", "hydra.launcher.n_jobs=2")
# Words of commands that can't be run here, and why.
NOT_HERE = {
    "hydra/launcher=slurm": "needs Slurm: tests/cluster",
    "hydra/launcher=ray": "needs Ray: tests/cluster",
    "tracking.uri=http://mlflow.example:5000": "needs a server of that name: tests/cluster, tests/tracking",
    "experiment=fashion_mnist": "needs 30 MB of data: tests/integration/test_fashion_mnist.py",
}
# Each starts two workers, which import torch: all but one sweep are left to `make test-study`.
QUICK_SWEEP = "python -m pipeline.train batch=256 -m"


def commands_of(text):
    """The commands in a page's code spans and blocks, without comments and with continued lines joined."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"`(python -m pipeline\.[^`\n]+)`", text) + re.findall(r"^(python -m pipeline\..+)$", text, re.M)
    return [shlex.join(shlex.split(command, comments=True)) for command in found]


def is_sweep(command):
    return "-m" in shlex.split(command)[3:]


def cases():
    """A parameter set for each command, marked as skipped or slow where it is."""
    parameters = []
    found = sorted({command for page in PAGES for command in commands_of(page.read_text())})
    for command in found:
        reason = next((why for word, why in NOT_HERE.items() if word in command.split()), None)
        marks = [pytest.mark.skip(reason=reason)] if reason else []
        if is_sweep(command) or {"SWEEP", "RUN_ID"} & set(shlex.split(command)):
            marks.append(pytest.mark.slow)
        parameters.append(pytest.param(command, marks=marks, id=command.removeprefix("python -m pipeline.")))
    return parameters


def test_commands_are_found_in_spans_tables_and_blocks():
    page = "| `python -m pipeline.train batch=2` | x |\n```\npython -m pipeline.train -m \\\n  a='b c'  # why\n```\n`make`\n"
    assert commands_of(page) == ["python -m pipeline.train batch=2", "python -m pipeline.train -m 'a=b c'"]


def test_the_pages_name_every_command_and_the_sweep_that_is_run():
    found = [case.values[0] for case in cases()]
    for name in ("train", "report", "advise", "reproduce", "sync"):
        assert any(command.startswith(f"python -m pipeline.{name}") for command in found), name
    assert QUICK_SWEEP in found


@pytest.mark.parametrize("command", cases())
def test_it_runs_and_prints_no_traceback(command, run_python, request, tmp_path):
    folder = tmp_path / "work"
    module, *words = shlex.split(command)[2:]
    name = module.removeprefix("pipeline.")
    if "SWEEP" in words or "RUN_ID" in words:
        results = request.getfixturevalue("swept" if "SWEEP" in words else "trained")
        copy_results(results.folder, folder)
        words = [named(folder, word) for word in words]
    else:
        folder.mkdir()
    (folder / "runs.csv").write_text(
        "batch,lr,value\n" + "".join(f"64,{0.1 * 2**i},{1 + i * i}\n" for i in range(-3, 4))
    )
    (folder / "my_package.py").write_text(
        "import torch\n"
        "def Net(width, classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(width), torch.nn.LazyLinear(classes))\n"
    )
    if name == "train":
        more = SMALL_SWEEP if is_sweep(command) else ONE_EPOCH
        if is_sweep(command) and not any(word.startswith("batch=") for word in words):
            more = (*more, "batch=64")
        after = 1 if words[:1] == ["-m"] else 0  # Hydra wants all overrides in a row
        words[after:after] = more
    elif words == ["--table"]:
        words.append("runs.csv")
    elif not words and name != "sync":
        words = ["--help"]  # a page speaks of the command
    done = run_python("-m", module, *words, folder=folder)
    assert done.returncode == 0, done.stderr


def named(folder, word):
    """`word`, with the name of the sweep or the id of the run in `folder` for SWEEP and RUN_ID."""
    if word not in ("SWEEP", "RUN_ID"):
        return word
    store = open_existing_store(f"sqlite:///{folder}/mlruns/mlflow.db", "lr-batch")
    kind = "sweep" if word == "SWEEP" else "run"
    (run,) = store.client.search_runs([store.experiment_id], f"tags.pipeline = '{kind}'")
    return run.data.tags["sweep"] if word == "SWEEP" else run.info.run_id
