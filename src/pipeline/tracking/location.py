"""Where MLflow keeps things, and whether that place can be written; needs no mlflow."""

import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pipeline.errors import RequestError

SQLITE = "sqlite:///"
# Where runs go unless somebody says otherwise: conf/tracking/local.yaml has the same.
DEFAULT_URI = "sqlite:///mlruns/mlflow.db"
# user:password@ of an address, wherever it stands in a text.
PASSWORD = re.compile(r"(\w+://[^\s:/@'\"]*):[^\s/@'\"]+@")

# user:password@ at the start of one.
USER = re.compile(r"^([\w+.-]+://)[^/?#]*@")


@dataclass(frozen=True)
class Place:
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
        RequestError: a scheme that MLflow doesn't know, or a folder that can't be made or written.
    """
    path = sqlite_path(uri)
    if path is None:
        if urlsplit(uri).scheme in ("http", "https", "postgresql", "mysql", "mssql", "databricks"):
            return
        raise RequestError(
            f"tracking.uri={without_password(uri)}: MLflow can't write runs there."
            "\nUse sqlite:///PATH.db, the http:// address of a server, or a database URL."
        )
    check_writable_folder(path.parent)
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        raise RequestError(f"{path}: it can't be written.\nMake it writable, or choose another tracking.uri.")


def check_writable_folder(folder: Path) -> None:
    """Refuse a folder that can't be written, or made: a file in its place, a read-only file system."""
    existing = folder
    while not existing.exists() and not existing.is_symlink():
        existing = existing.parent
    if not existing.is_dir():
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


def without_password(uri: str) -> str:
    """`uri` with a password in it replaced by ***."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    user_and_host = f"{parts.username}:***@{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    return urlunsplit(parts._replace(netloc=user_and_host))


def without_user(uri: str) -> str:
    """`uri` as it is for everybody: without user, password and slashes at its end."""
    return USER.sub(r"\1", uri).rstrip("/")


def without_passwords(text: str) -> str:
    """`text` with the password of each address in it replaced by ***."""
    return PASSWORD.sub(r"\1:***@", text)
