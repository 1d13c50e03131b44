"""Where runs are tracked: refused when it can't be written, and nothing written to find out."""

import subprocess

import pytest

from pipeline.errors import RequestError
from pipeline.tracking.location import check_location, sqlite_path, without_password


def uri(folder):
    return f"sqlite:///{folder}/mlruns/mlflow.db"


def test_a_folder_that_can_be_made_is_accepted_and_not_made(tmp_path):
    check_location(uri(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_mlruns_is_refused(tmp_path):
    (tmp_path / "mlruns").write_text("a file")
    with pytest.raises(RequestError, match="is not a folder"):
        check_location(uri(tmp_path))


def test_a_folder_in_the_place_of_the_database_is_refused(tmp_path):
    (tmp_path / "mlruns" / "mlflow.db").mkdir(parents=True)
    with pytest.raises(RequestError, match="can't be written"):
        check_location(uri(tmp_path))


def test_a_dangling_link_is_refused(tmp_path):
    (tmp_path / "mlruns").symlink_to(tmp_path / "gone")
    with pytest.raises(RequestError, match="is not a folder"):
        check_location(uri(tmp_path))


def test_a_read_only_file_system_is_refused_also_to_root():
    # /sys can't be written to by anyone, root included: a read-only mount that every Linux has.
    with pytest.raises(RequestError, match=r"can't be written \(.*\)"):
        check_location("sqlite:////sys/kernel/mlruns/mlflow.db")


def test_a_read_only_mount_is_refused(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        return  # only root may mount; /sys above stands for it then
    try:
        with pytest.raises(RequestError, match="Read-only file system"):
            check_location(uri(tmp_path))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("address", ["http://localhost:5000", "https://mlflow.example", "postgresql://u:p@h/db"])
def test_servers_and_databases_are_accepted_without_asking_them(address):
    check_location(address)


@pytest.mark.parametrize("address", ["foo", "mlruns", "ftp://host", "file:///tmp/mlruns"])
def test_what_mlflow_cannot_write_to_is_refused(address):
    with pytest.raises(RequestError, match=r"sqlite:///PATH\.db"):
        check_location(address)


def test_a_password_is_not_shown():
    assert without_password("postgresql://me:secret@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert without_password("sqlite:///mlruns/mlflow.db") == "sqlite:///mlruns/mlflow.db"
    with pytest.raises(RequestError) as refused:
        check_location("ftp://me:secret@host/db")
    assert "secret" not in str(refused.value)


def test_the_database_file_is_found_in_the_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sqlite_path("sqlite:///mlruns/mlflow.db?timeout=3") == tmp_path / "mlruns" / "mlflow.db"
    assert sqlite_path("http://localhost") is None
