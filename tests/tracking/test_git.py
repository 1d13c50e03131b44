"""The git commit of a run's source and the difference to it, whatever the files' encoding."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.reproduction.environment_diff import diff_environment
from pipeline.tracking import git
from pipeline.tracking.logged import read_logged
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.store import open_store
from pipeline.tracking.target import TrackingTarget


def run_git(folder, *arguments, text=None):
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, input=text, capture_output=True, check=True)
    return done.stdout.decode(errors="replace").strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A user's repository with one commit, as the working directory."""
    folder = tmp_path / "mine"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "net.py").write_text("width = 1\n")
    (folder / ".gitignore").write_text("ignored.py\n")
    run_git(folder, "init", "-q")
    run_git(folder, "add", ".")
    run_git(folder, "commit", "-q", "-m", "first")
    monkeypatch.chdir(folder)
    return folder


def test_a_dirty_trees_difference_and_commit_are_logged(repository, tmp_path):
    (repository / "package" / "net.py").write_text("width = 2\n")
    (repository / "package" / "new.py").write_text("class Net: ...\n")
    target = TrackingTarget(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "source")
    with TrackedRun(target, "dirty", {}) as run:
        run.log_environment()
    assert run.is_sent
    client = open_store(target.uri, target.experiment).client
    assert client.get_run(run.id).data.tags["mlflow.source.git.commit"] == run_git(repository, "rev-parse", "HEAD")
    difference = Path(client.download_artifacts(run.id, "source/git.diff", str(tmp_path))).read_text(encoding="utf-8")
    assert "-width = 1\n+width = 2\n" in difference
    assert "+class Net: ...\n" in difference


def test_commit_and_difference_restore_the_tree(repository, tmp_path, monkeypatch):
    new = {"a.py": "x = 1\n", "b/c d.yaml": "no: end", "b/__init__.py": "", "ünï.py": "ä = '1'\r\n\n"}
    (repository / "package" / "net.py").write_text("width = 3\n")
    for name, text in new.items():
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_bytes(text.encode())
    monkeypatch.chdir(repository / "package")  # files above the working directory count too
    commit, difference = git.git_state()
    run_git(tmp_path, "clone", "-q", str(repository), "again")
    again = tmp_path / "again"
    run_git(again, "checkout", "-q", commit)
    run_git(again, "apply", text=difference.encode())
    assert (again / "package" / "net.py").read_text() == "width = 3\n"
    assert {name: (again / name).read_bytes().decode() for name in new} == new


def test_an_unchanged_tree_equals_the_logged_one(repository, tmp_path):
    (repository / "package" / "net.py").write_bytes(b"width = 2\r\n# \xff\n")
    (repository / "new.py").write_bytes(b"uri = 'http://me:' + 'x'\r\nuri = 'http://me:hunter2@h'\x0c\n")
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    with TrackedRun(TrackingTarget(uri, "same"), "same", {"pipeline": "run"}) as run:
        run.log_text("batch: 1\n", "config/config.yaml")
        run.log_environment()
    logged = read_logged(uri, run.id)
    assert "hunter2" not in logged.difference
    code = next(
        c
        for c in diff_environment(logged, SimpleNamespace(runtime=SimpleNamespace(device="cpu")))
        if c.subject == "code"
    )
    assert code.description == "the same"


def test_of_new_files_only_small_code_that_git_does_not_ignore_is_kept(repository):
    left_out = (
        "ignored.py",
        "key.pem",
        "table.csv",
        "mlruns/sweeps/x/multirun.yaml",
        "venv/x.py",
        'quo"ted.py',
        "big.py",
        "binary.py",
    )
    for name in left_out:
        file = repository / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("S3CRET\n" * (50_000 if name == "big.py" else 1) + ("\0" if name == "binary.py" else ""))
    (repository / "link.py").symlink_to(repository / "key.pem")
    (repository / "kept.py").write_text("x = 1\n")
    _, difference = git.git_state()
    assert "+++ b/kept.py" in difference
    assert "S3CRET" not in difference
    assert "link.py" not in difference


def test_a_difference_beyond_the_limit_is_cut(repository, monkeypatch):
    monkeypatch.setattr(git, "MAX_CHARACTERS", 1000)
    for number in range(20):
        (repository / f"m{number:02d}.py").write_text("x = 1\n" * 20)
    _, difference = git.git_state()
    assert len(difference) < 1100
    assert difference.endswith("# … and more new files, left out: too long\n")
    (repository / "package" / "net.py").write_text("x = 1\n" * 1000)
    assert git.git_state()[1].endswith("# … and more, left out: too long\n")


def test_a_file_that_is_not_utf_8_is_logged_with_replacement_characters(repository, tmp_path):
    (repository / "package" / "net.py").write_bytes("# Breite in Fuß\nwidth = 2\n".encode("latin-1"))
    (repository / "new.py").write_bytes("# größer\n".encode("latin-1"))
    target = TrackingTarget(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "source")
    with TrackedRun(target, "latin-1", {}) as run:
        run.log_environment()
    assert run.is_sent
    client = open_store(target.uri, target.experiment).client
    difference = Path(client.download_artifacts(run.id, "source/git.diff", str(tmp_path))).read_text(encoding="utf-8")
    assert "+width = 2" in difference
    assert "+# Breite in Fu�\n" in difference
    assert "+# gr��er\n" in difference


def test_a_users_own_diff_program_and_colours_are_not_used(repository):
    run_git(repository, "config", "diff.external", "echo S3CRET")
    run_git(repository, "config", "color.ui", "always")
    (repository / "package" / "net.py").write_text("width = 2\n")
    _, difference = git.git_state()
    assert "-width = 1\n+width = 2\n" in difference
    assert "S3CRET" not in difference


def test_without_git_there_is_neither_commit_nor_difference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert git.git_state() == (None, "")


@pytest.mark.parametrize("broken", ["environment.installed_packages", "environment.machine", "git.git_state"])
def test_what_can_not_be_found_is_left_out_with_a_warning(tmp_path, monkeypatch, caplog, broken):
    def failing():
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(f"pipeline.tracking.{broken}", failing)
    target = TrackingTarget(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "broken")
    with TrackedRun(target, "broken", {}) as run:
        run.log_environment()
        run.log_metrics({"a": 1.0}, 1)
    assert "can't be found and is left out (UnicodeDecodeError" in caplog.text
    found = open_store(target.uri, target.experiment).client.get_run(run.id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"a": 1.0})
