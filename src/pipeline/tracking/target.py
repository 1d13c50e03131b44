"""Where MLflow keeps things, and whether that place can be written; needs no mlflow."""

import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lr_study.masking import mask_passwords
from pipeline.errors import RequestError

SQLITE = "sqlite:///"
# The defaults; conf/tracking/local.yaml has the same.
DEFAULT_URI = "sqlite:///mlruns/mlflow.db"
DEFAULT_EXPERIMENT = "lr-batch"
DATABASES = ("postgresql", "mysql", "mssql")


@dataclass(frozen=True)
class TrackingTarget:
    """Where runs are tracked: the tracking URI, and the name of the experiment."""

    uri: str
    experiment: str

    @property
    def spool(self) -> Path:
        """The folder of the records that are written before they are sent: beside the database, else in mlruns/."""
        path = sqlite_path(self.uri)
        return (Path("mlruns").absolute() if path is None else path.parent) / "spool"

    @property
    def label(self) -> str:
        """How a record names its store: without user and password, and so that it stays true in a moved folder."""
        path = sqlite_path(self.uri)
        return without_user(self.uri) if path is None else f"sqlite:{path.name}"

    def is_of(self, label: str, folder: Path) -> bool:
        """Whether a record in `folder` that names its store `label` belongs here.

        The same server is the same store, whoever asks. A database's records lie beside it: those in another folder
        are another database's, though it has the same name.
        """
        if sqlite_path(self.uri) is not None and self.spool.resolve() != folder.resolve():
            return False
        return without_user(label) == self.label

    @property
    def sync_command(self) -> str:
        """The command that sends later what could not be sent now; to be given in the same folder."""
        address = without_user(self.uri)
        said = f"python -m pipeline.sync --tracking-uri {shlex.quote(address)}"
        return said if address == self.uri.rstrip("/") else f"{said}, with user and password in the address"


def sqlite_path(uri: str) -> Path | None:
    """Absolute path of the database file that `uri` names, or None where it is not SQLite's."""
    if not uri.startswith(SQLITE):
        return None
    return Path(os.path.abspath(uri.removeprefix(SQLITE).split("?")[0]))


def check_location(uri: str) -> None:
    """Refuse, leaving nothing behind, a tracking place that can't take runs.

    Raises:
        RequestError: no address that can be used, or a folder that can't be made or written.
    """
    path = sqlite_path(uri)
    if path is None:
        check_address(uri)
        return
    check_writable_folder(path.parent)
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        raise RequestError(f"{path}: it can't be written.\nMake it writable, or choose another tracking.uri.")


def check_address(uri: str) -> None:
    """Refuse an address that is neither a server's nor a database's, or that nobody can read; nobody is asked.

    Raises:
        RequestError: with what may stand there; a password in it isn't shown.
    """
    scheme = uri.partition("://")[0].lower()
    if scheme.startswith("databricks"):
        raise RequestError(
            f"tracking.uri={mask_passwords(uri)}: Databricks is not supported, where experiments and artifacts have "
            "other names.\nUse the http:// address of an MLflow server, or a database URL."
        )
    # postgresql+psycopg names the driver, too.
    if not is_server(uri) and ("://" not in uri or scheme.partition("+")[0] not in DATABASES):
        raise RequestError(
            f"tracking.uri={mask_passwords(uri)}: MLflow can't write runs there."
            "\nUse sqlite:///PATH.db, the http:// address of a server, or a database URL."
        )
    try:
        host = _server_host(uri) if is_server(uri) else _database_host(uri)
    except ValueError:
        host = None
    if host is None or re.search(r"[\s@]", host):
        raise RequestError(
            f"tracking.uri={mask_passwords(uri)}: it can't be read as an address."
            "\nWrite a number as the port, and special characters of a password as %40 for @, %2F for /, %5B for [."
        )


def is_server(uri: str) -> bool:
    """Whether `uri` is the address of a tracking server, rather than of a database."""
    return uri.lower().startswith(("http://", "https://"))


def _server_host(uri: str) -> str | None:
    parts = urlsplit(uri)
    _ = parts.port  # raises ValueError where it is no number
    return parts.hostname


def _database_host(uri: str) -> str:
    """The host in a database's address; empty where there is none, as for a socket.

    Raises:
        ValueError: SQLAlchemy, or the standard library that MLflow asks, can't read the address.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    urlsplit(uri)
    try:
        return make_url(uri).host or ""
    except ArgumentError as error:
        raise ValueError from error


def check_writable_folder(folder: Path) -> None:
    """Refuse a folder that can't be written, or made: a file in its place, a read-only file system."""
    existing = folder
    # pathlib's own `exists` raises where a folder above may not be looked into.
    while not os.path.lexists(existing):
        existing = existing.parent
    if not os.path.isdir(existing):
        raise RequestError(
            f"{folder}: it can't be used, for {existing} is not a folder."
            "\nMove that file away, start from another folder, or set tracking.uri."
        )
    try:
        # Only an attempt tells of read-only mounts, quotas and a full disk, to root too; it leaves nothing.
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        raise RequestError(
            f"{folder}: it can't be written ({error.strerror})."
            "\nStart from a folder that can be written, or set tracking.uri."
        ) from None


def without_user(uri: str) -> str:
    """`uri` as it is for everybody: without user, password and slashes at its end."""
    scheme, mark, rest = uri.partition("://")
    # The last @: a password may hold any character, also an @ or a slash.
    return mask_passwords(f"{scheme}{mark}{rest.rpartition('@')[2]}").rstrip("/")


def server_page(uri: str) -> str:
    """The address of a tracking server as a page links to it: without user and password, and without a query."""
    return (
        without_user(uri.partition("?")[0] if "@" not in uri.partition("?")[2] else uri).partition("?")[0].rstrip("/")
    )
