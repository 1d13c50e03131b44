"""The tracking target: refused if it can't be written, and nothing is written to find out."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from lr_study.masking import mask_passwords
from pipeline.errors import RequestError
from pipeline.tracking.check import check_location
from pipeline.tracking.store import open_existing_store, open_store
from pipeline.tracking.target import is_server, sqlite_path


def uri(folder):
    return f"sqlite:///{folder}/mlruns/mlflow.db"


def test_a_folder_that_can_be_created_is_accepted_and_not_created(tmp_path):
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


def test_a_read_only_file_system_is_refused_even_for_root():
    # /sys: a read-only mount that every Linux has.
    with pytest.raises(RequestError, match=r"can't be written \(.*\)"):
        check_location("sqlite:////sys/kernel/mlruns/mlflow.db")


def test_a_read_only_mount_is_refused(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount; the two tests beside this one stand for it")
    try:
        with pytest.raises(RequestError, match="Read-only file system"):
            check_location(uri(tmp_path))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@contextlib.contextmanager
def as_anybody():
    """Give up root's permissions inside the block."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read-only", "closed"])
def test_a_folder_without_the_permission_to_write_or_to_enter_is_refused(mode):
    folder = Path(tempfile.mkdtemp())  # not tmp_path, which only its owner may enter
    folder.chmod(mode)
    try:
        with as_anybody(), pytest.raises(RequestError, match=r"can't be written \(Permission denied\)"):
            check_location(uri(folder))
    finally:
        folder.chmod(0o755)
        assert list(folder.iterdir()) == []
        folder.rmdir()


SERVERS = [
    "http://localhost:5000",
    "https://mlflow.example",
    "HTTP://h",
    "http://me:p%40ss@h:5000/base",
    "http://[::1]:5000",
]
DATABASES = ["postgresql://u:p@h/db", "postgresql+psycopg://u:p@h/db", "mysql+pymysql://u:p@h/db", "postgresql:///db"]


@pytest.mark.parametrize("address", SERVERS + DATABASES)
def test_servers_and_databases_are_accepted_without_a_request_to_them(address):
    check_location(address)
    assert is_server(address) == (address in SERVERS)


@pytest.mark.parametrize(
    "address",
    [
        "http://h:abc",
        "http://me:secret@h:abc",
        "http://me:secret/x@h",
        "http://h:99999",
        "http://",
        "https://two words",
        "postgresql://me:a[secret@h",
        "postgresql://me:secret@h:abc/db",
        "postgresql://me:a@secret@h/db",
    ],
)
def test_an_address_that_can_not_be_parsed_is_refused(address):
    for asked in (check_location, lambda uri: open_existing_store(uri, "x"), lambda uri: open_store(uri, "x")):
        with pytest.raises(RequestError, match=r"it can't be read as an address\.\nWrite a number") as refused:
            asked(address)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["databricks", "databricks://profile", "databricks-uc"])
def test_databricks_is_refused(address):
    with pytest.raises(RequestError, match="Databricks is not supported"):
        check_location(address)


@pytest.mark.parametrize(
    "address", ["foo", "mlruns", "ftp://host", "file:///tmp/mlruns", "http+unix://h", "postgresql:h"]
)
def test_an_address_that_mlflow_can_not_write_to_is_refused(address):
    with pytest.raises(RequestError, match=r"sqlite:///PATH\.db"):
        check_location(address)


def test_a_message_shows_no_password():
    assert mask_passwords("postgresql://me:secret@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert mask_passwords("sqlite:///mlruns/mlflow.db") == "sqlite:///mlruns/mlflow.db"
    with pytest.raises(RequestError) as refused:
        check_location("ftp://me:secret@host/db")
    assert "secret" not in str(refused.value)


def test_the_database_file_is_found_in_the_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sqlite_path("sqlite:///mlruns/mlflow.db?timeout=3") == tmp_path / "mlruns" / "mlflow.db"
    assert sqlite_path("http://localhost") is None
