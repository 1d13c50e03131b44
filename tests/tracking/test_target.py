"""The tracking target: refused if it can't be written, and nothing is written to find out."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lr_study import Sweep
from lr_study.masking import mask_passwords
from pipeline import advise, report, train
from pipeline.errors import RequestError
from pipeline.sweep.hooks import SweepHooks
from pipeline.tracking.check import check_location, check_sweep_name
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.store import open_existing_store, open_store
from pipeline.tracking.sweep import find_parent
from pipeline.tracking.target import is_server, sqlite_path, warn_of_unused_variables


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


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", "a'b", 'a"b', "a$b", "a\nb", "a\x1b[2J", "caf\udce9", " a", "a.", "é" * 128], ids=range(11)
)
def test_a_name_that_no_folder_can_have_or_mlflow_can_not_search_for_is_no_sweeps_name(name):
    with pytest.raises(RequestError, match="it can't be a sweep's name") as refused:
        check_sweep_name(name)
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize("name", ["digits-mlp-sgd-7dd7d025", "100% of a,b [c] {d} (e) = f; é #!&", "true", "é" * 127])
def test_any_other_name_is_found_again_in_mlflow_and_reaches_the_trials(
    own_target, composed, monkeypatch, tmp_path, name
):
    check_sweep_name(name)
    monkeypatch.chdir(tmp_path)
    config = composed(f"tracking.uri={own_target.uri}", "tracking.experiment=tests")
    cell = SimpleNamespace(name="batch=64", config=config, choices={}, dimensions=[])
    options = SimpleNamespace(hydra=SimpleNamespace(sweeper=SimpleNamespace(direction="minimize")))
    hooks = SweepHooks()
    overrides = hooks.started(Sweep(name, options, [cell], total_trials=1, finished_trials=0))
    texts = [f"{key}={value}" for key, value in overrides.items()]
    told = {each.key_or_group: each.value() for each in OverridesParser.create().parse_overrides(texts)}
    assert told == {"sweep.name": name, "sweep.parent": hooks._parent.id}
    found = find_parent(open_store(own_target.uri, "tests"), name)
    assert found.info.run_id == hooks._parent.id
    hooks._parent.end("complete")


def test_the_experiment_of_the_environment_is_used_and_the_command_lines_wins(
    composed, call_command, own_target, monkeypatch
):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert composed().tracking.experiment == "mine"
    assert composed("tracking.experiment=given").tracking.experiment == "given"
    evidence = ("--sweep", "s", "--from-batch", "32", "--from-lr", "0.1", "--to-batch", "64")
    for main, asked in ((report.main, ("s",)), (advise.main, evidence)):
        assert "it has no experiment mine." in call_command(main, *asked).err
        assert "it has no experiment given." in call_command(main, *asked, "--experiment", "given").err


def test_an_empty_experiment_of_the_environment_is_refused(call_command, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    done = call_command(train.main)
    assert (done.code, "MLFLOW_EXPERIMENT_NAME" in done.err) == (2, True)


@pytest.mark.parametrize("name", ["MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID", "MLFLOW_RUN_NAME"])
def test_a_variable_of_mlflow_that_has_no_effect_is_named_once_in_a_command_and_not_by_its_trials(
    own_target, monkeypatch, caplog, name
):
    monkeypatch.setenv(name, "7")
    warn_of_unused_variables.cache_clear()
    for quiet in (True, False, False):
        with TrackedRun(own_target, "run", {}, quiet=quiet):
            pass
        if quiet:
            assert caplog.text == ""
    (warning,) = caplog.records
    assert warning.getMessage().startswith(f"{name}: set, but not used here.")
    warn_of_unused_variables.cache_clear()
