"""Passwords in addresses are masked in any text, and in all files and messages of a sweep."""

import logging
import random
import sys
import time

import pytest
from omegaconf import OmegaConf

from lr_study.masking import MaskingFormatter, mask_passwords, mask_tree
from tests.lr_study.inprocess import multirun, trials_of

SECRET = "hunter2"
ADDRESS = "http://me:hunter2@127.0.0.1:1"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://me:p@ss@h", "http://me:***@h"),
        ("https://me:pw@h:5000/x", "https://me:***@h:5000/x"),
        ("postgresql://me:hunt/er2@h:5432/db", "postgresql://me:***@h:5432/db"),
        ("postgresql+psycopg://me:a[b@h/db", "postgresql+psycopg://me:***@h/db"),
        ("mysql+pymysql://me:a#b?c@h/db", "mysql+pymysql://me:***@h/db"),
        ("http://me:it's@h", "http://me:***@h"),
        ("http://me:two words@h:5000/x", "http://me:***@h:5000/x"),
        ("http://me:p?token=x@h", "http://me:***@h"),
        ("http://:pw@h", "http://:***@h"),
        ("http://token@h/x", "http://***@h/x"),
        ("http://token:@h/x", "http://***@h/x"),
        ("HTTPS://Me:Pw@H", "HTTPS://Me:***@H"),
        ("http://me:pw@h:abc", "http://me:***@h:abc"),
        ("postgresql://h/db?user=me&password=x&a=1", "postgresql://h/db?user=me&password=***&a=1"),
        ("postgresql://h:5432/db?sslpassword=a@b", "postgresql://h:5432/db?sslpassword=***"),
        ("http://h/?x=1&access_token=y", "http://h/?x=1&access_token=***"),
        ("http://h/?api_key=y#z", "http://h/?api_key=***"),
        (
            "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dx%3BA%3D1",
            "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D***%3BA%3D1",
        ),
        ("a=http://me:p@h b=http://you:q@g", "a=http://me:***@h b=http://you:***@g"),
        ("('http://h?token=abc'), and more", "('http://h?token=***'), and more"),
        # Without a password.
        ("postgresql://me@h/db", None),
        ("http://h:5000 and mail me@x", None),
        ("http://h:abc", None),
        ("http://[::1]:5000/#/experiments/1", None),
        ("https://github.com/a/b@v1", None),
        ("sqlite:///mlruns/mlflow.db?timeout=3", None),
        ("user:password@host without a scheme", None),
        ("", None),
    ],
)
def test_the_password_of_an_address_is_masked_and_nothing_else(given, shown):
    assert mask_passwords(given) == (given if shown is None else shown)
    assert mask_passwords(mask_passwords(given)) == mask_passwords(given)


def test_a_password_of_any_characters_is_masked():
    draw = random.Random(0)
    characters = "abcXYZ019@/#?'\"%:;&=+!$*()[]{}<>|^~`,.\\-_é"
    for _ in range(3000):
        inner = "".join(draw.choice(characters) for _ in range(draw.randint(0, 12)))
        scheme = draw.choice(["http", "https", "postgresql", "mysql+pymysql"])
        text = f"can't reach {scheme}://me:S3CRET{inner}W0RD@host:5000/db (refused)"
        shown = mask_passwords(text)
        assert "S3CRET" not in shown, text
        assert "W0RD" not in shown, text
        assert shown.endswith("@host:5000/db (refused)")
        assert mask_passwords(shown) == shown


def test_masking_is_fast_even_for_texts_that_are_hard_for_its_patterns():
    started = time.monotonic()
    for text in ("a" * 10**6 + "://x", "http://a:b " * 30_000, "://" + "?pas" * 50_000, "://" + "?password" * 20_000):
        mask_passwords(text)
    assert time.monotonic() - started < 10


def test_trees_log_messages_and_tracebacks_are_masked():
    tree = {"uri": ADDRESS, "list": [ADDRESS, 3, None], "node": {"a": "b"}}
    assert mask_tree(tree) == {
        "uri": ADDRESS.replace(SECRET, "***"),
        "list": [ADDRESS.replace(SECRET, "***"), 3, None],
        "node": {"a": "b"},
    }
    try:
        raise ConnectionError(ADDRESS)
    except ConnectionError:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "at %s", (ADDRESS,), sys.exc_info())
    said = MaskingFormatter("%(message)s").format(record)
    assert "me:***@" in said
    assert "ConnectionError" in said
    assert SECRET not in said


def check_secret_in_no_file(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert SECRET.encode() not in file.read_bytes(), file


SEARCH = ("x=interval(0.5,4.0)", "hydra.sweeper.n_trials=2", f"+address={ADDRESS}", "hydra.sweeper.name=named")


def test_no_file_of_a_sweep_holds_a_password_of_its_command_line(tmp_path):
    multirun(tmp_path, *SEARCH, f"+more.address={ADDRESS}", "hydra/launcher=basic", "hydra.output_subdir=null")
    saved = OmegaConf.load(tmp_path / "out" / "multirun.yaml")
    assert "+address=http://me:***@127.0.0.1:1" in saved.hydra.overrides.task
    check_secret_in_no_file(tmp_path)


def test_jobs_get_the_address_with_its_password(tmp_path):
    seen = set()

    def task(cfg):
        seen.add(cfg.address)
        return cfg.x

    multirun(tmp_path, *SEARCH, "hydra.output_subdir=null", task=task)
    assert seen == {ADDRESS}


def test_the_error_of_a_trial_is_stored_without_the_password(tmp_path):
    def task(cfg):
        if cfg.x != 1.0:
            raise ConnectionError(f"can't reach {cfg.address}")
        return 1.0

    multirun(tmp_path, *SEARCH, "hydra.output_subdir=null", "hydra.sweeper.max_failure_rate=1", task=task)
    failed = [trial for trial in trials_of(tmp_path, "named") if "error" in trial.user_attrs]
    assert failed
    assert all("me:***@" in trial.user_attrs["error"] for trial in failed)
    check_secret_in_no_file(tmp_path)


def test_an_interrupted_sweep_says_how_to_resume_it_without_the_password(tmp_path, monkeypatch, capsys):
    def task(cfg):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.orig_argv", ["python", "app.py", "-m", f"+address={ADDRESS}"])
    with pytest.raises(KeyboardInterrupt):
        multirun(tmp_path, *SEARCH, "hydra.output_subdir=null", task=task)
    _, _, said = capsys.readouterr().out.partition("Run the same command again")
    assert "+address=http://me:***@127.0.0.1:1" in said
    assert SECRET not in said
