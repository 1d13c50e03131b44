"""Where runs are tracked, and whether that place can be written. Imports no mlflow."""

import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lr_study.masking import mask_passwords
from pipeline.errors import RequestError

# The defaults; conf/tracking/local.yaml has the same.
DEFAULT_URI = "sqlite:///mlruns/mlflow.db"
DEFAULT_EXPERIMENT = "lr-batch"


@dataclass(frozen=True)
class TrackingTarget:
    """Where runs are tracked: the tracking URI, and the name of the experiment."""

    uri: str
    experiment: str

    @property
    def spool(self) -> Path:
        """The folder of spools: beside the database file, else in mlruns/."""
        path = sqlite_path(self.uri)
        return (Path("mlruns").absolute() if path is None else path.parent) / "spool"

    @property
    def label(self) -> str:
        """The store's name in a spool: without user and password, and without the folder, which may be moved."""
        path = sqlite_path(self.uri)
        return without_user(self.uri) if path is None else f"sqlite:{path.name}"

    def matches(self, label: str, folder: Path) -> bool:
        """Whether a spool in `folder` that names its store `label` is for this store.

        A server is the same store for every user. The spools of a database file lie beside it: in another folder, the
        same label means another database.
        """
        if sqlite_path(self.uri) is not None and self.spool.resolve() != folder.resolve():
            return False
        return without_user(label) == self.label

    @property
    def sync_command(self) -> str:
        """The command, for the same working directory, that sends later what could not be sent now."""
        address = without_user(self.uri)
        command = f"python -m pipeline.sync --tracking-uri {shlex.quote(address)}"
        return command if address == self.uri.rstrip("/") else f"{command}, with user and password in the address"


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the database file in `uri`, or None if the store isn't SQLite."""
    # By hand: every command asks this at its start, and the import of SQLAlchemy takes a quarter of a second.
    scheme, _, path = uri.partition(":///")
    return Path(os.path.abspath(path.split("?")[0])) if scheme == "sqlite" else None


def check_location(uri: str) -> None:
    """Refuse a store that can't take runs. Nothing is written, and no server is asked.

    Raises:
        RequestError: `uri` is no address of a store, or its folder can't be created or written.
    """
    path = sqlite_path(uri)
    if path is None:
        check_address(uri)
        return
    _check_writable_folder(path.parent)
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


def is_server(uri: str) -> bool:
    """Whether `uri` is the address of a tracking server, not of a database."""
    return uri.lower().startswith(("http://", "https://"))


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


def without_user(uri: str) -> str:
    """Return `uri` without user, password and slashes at its end."""
    scheme, mark, rest = uri.partition("://")
    # The last @, since a password may contain one, or a slash.
    return mask_passwords(f"{scheme}{mark}{rest.rpartition('@')[2]}").rstrip("/")


def server_page(uri: str) -> str:
    """Return a server's address for a link in a page: without user, password and query."""
    page, _, query = uri.partition("?")
    # An @ after the ? means that the ? is a part of a password.
    return without_user(uri if "@" in query else page).partition("?")[0].rstrip("/")
