"""Refuse a place for runs that can't take them, before anything is written. Imports no mlflow."""

import os
import re
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from lr_study.masking import mask_passwords
from pipeline.errors import RequestError
from pipeline.tracking.database_file import check_database
from pipeline.tracking.target import TrackingTarget, artifact_folder, is_server, sqlite_path

# Characters of an experiment's name in MLflow.
LONGEST_EXPERIMENT = 500
# Characters that a sweep's name can't have.
FORBIDDEN = frozenset("/\\'\"$")
# The longest suffix that a database file gets, while it is created.
ARRIVING = ".arriving-4194304"
# Bytes of a path that SQLite takes, which leaves room for `-journal` at its end, and of a name in a file system.
LONGEST_PATH, LONGEST_NAME = 504, 255


def check_target(target: TrackingTarget) -> None:
    """Refuse a target that can't take runs, as far as this can be known without MLflow. Nothing is written.

    Raises:
        RequestError: says what is wrong, and what mends it.
    """
    check_experiment(target.experiment)
    check_location(target.uri)
    if (path := sqlite_path(target.uri)) is not None:
        check_database(path, target.experiment)


def check_experiment(name: str) -> None:
    """Raise RequestError for a name that no experiment in MLflow can have."""
    if not name.strip() or len(name) > LONGEST_EXPERIMENT or not name.isprintable():
        raise RequestError(
            f"experiment {name[:60]!r}: a name has 1 to {LONGEST_EXPERIMENT} printable characters, and not only blanks."
            "\nGive it with tracking.experiment=NAME, --experiment NAME or MLFLOW_EXPERIMENT_NAME."
        )


def check_sweep_name(name: str) -> None:
    """Raise RequestError for a name that can't be that of a folder, or that MLflow can't search for."""
    plain = name.isprintable() and name == name.strip(" .") and not FORBIDDEN.intersection(name)
    if not (name and plain and len(os.fsencode(name)) <= LONGEST_NAME):
        raise RequestError(
            f"sweep.name={mask_passwords(name)[:100]!r}: it can't be a sweep's name, which also names a folder."
            f"\nIt has 1 to {LONGEST_NAME} bytes, none of {' '.join(sorted(FORBIDDEN))}, no control characters,"
            " and neither a blank nor a full stop at an end."
        )


def check_location(uri: str) -> None:
    """Refuse a store that can't take runs. Nothing is written, and no server is asked.

    Raises:
        RequestError: `uri` is no address of a store, or its folder can't be created or written.
    """
    _check_artifact_folder(artifact_folder(uri))
    path = sqlite_path(uri)
    if path is None:
        check_address(uri)
        return
    if path.name == ":memory:" or "mode=memory" in uri:
        raise RequestError(f"tracking.uri={uri}: a database in memory is gone with its process.\nName a file.")
    _check_length(path)
    _check_writable_folder(path.parent / "spool")
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        raise RequestError(f"{path}: it can't be written.\nMake it writable, or choose another tracking.uri.")


def check_address(uri: str) -> None:
    """Raise RequestError for an address of neither a server nor a database. No server is asked, no password shown."""
    scheme = uri.partition("://")[0].lower()
    if scheme.startswith("databricks"):
        raise RequestError(
            f"tracking.uri={mask_passwords(uri)}: Databricks is not supported, where experiments and artifacts have "
            "other names.\nUse the http:// address of an MLflow server, or a database URL."
        )
    dialect = scheme.partition("+")[0]  # postgresql+psycopg names the driver too
    if not is_server(uri) and ("://" not in uri or dialect not in ("postgresql", "mysql", "mssql")):
        raise RequestError(
            f"tracking.uri={mask_passwords(uri)}: MLflow can't write runs there."
            "\nUse sqlite:///PATH.db, the http:// address of a server, or a database URL."
        )
    host = _host(uri)
    if host is None or re.search(r"[\s@]", host):
        raise RequestError(
            f"tracking.uri={mask_passwords(uri)}: it can't be read as an address."
            "\nWrite a number as the port, and special characters of a password as %40 for @, %2F for /, %5B for [."
        )


def _host(uri: str) -> str | None:
    """Return the host in an address; empty for a database's socket; None if the address can't be parsed."""
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises ValueError if it is no number
    except ValueError:
        return None
    if is_server(uri):
        return parts.hostname
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(uri).host or ""
    except ArgumentError:
        return None


def _check_artifact_folder(folder: Path | None) -> None:
    """Refuse a folder whose name isn't UTF-8: MLflow reads it back from an address with another name."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"{folder}: MLflow can't keep artifacts there, for the folder's name is not UTF-8."
            "\nStart from another folder, or set tracking.uri to a server or to a database elsewhere."
        ) from None


def _check_length(path: Path) -> None:
    """Refuse the path of a database file that SQLite or the file system would not take."""
    longest = path.with_suffix(ARRIVING)
    if len(os.fsencode(longest)) > LONGEST_PATH or any(len(os.fsencode(name)) > LONGEST_NAME for name in longest.parts):
        raise RequestError(
            f"…{str(path)[-60:]}: this path has {len(os.fsencode(path))} bytes, too many for SQLite's database."
            f"\nIt may have {LONGEST_PATH - len(ARRIVING)}, and a name in it {LONGEST_NAME}: "
            "start from another folder, or set tracking.uri."
        )


def _check_writable_folder(folder: Path) -> None:
    """Refuse a folder that can't be written or created, as on a read-only file system or below a file."""
    existing = folder
    # Not pathlib's `exists`, which raises if a folder above is closed to this user.
    while not os.path.lexists(existing):
        existing = existing.parent
    if not os.path.isdir(existing):
        raise RequestError(
            f"{folder}: it can't be used, for {existing} is not a folder."
            "\nMove that file away, start from another folder, or set tracking.uri."
        )
    try:
        # Only an attempt finds read-only mounts, quotas and a full disk, for root too.
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        raise RequestError(
            f"{folder}: it can't be written ({error.strerror})."
            "\nStart from a folder that can be written, or set tracking.uri."
        ) from None
