"""Where runs are tracked: addresses, and the files that belong to them. Imports no mlflow."""

import functools
import logging
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from lr_study.masking import mask_passwords

log = logging.getLogger("pipeline.tracking")
# The defaults; conf/tracking/local.yaml has the same.
DEFAULT_URI = "sqlite:///mlruns/mlflow.db"
DEFAULT_EXPERIMENT = "lr-batch"
# Variables that name a run or an experiment to MLflow's own functions for logging, and have no effect here.
UNUSED_VARIABLES = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID", "MLFLOW_RUN_NAME")


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
        address = self.uri if sqlite_path(self.uri) else without_user(self.uri)
        command = f"python -m pipeline.sync --tracking-uri {shlex.quote(address)}"
        return command if address == self.uri.rstrip("/") else f"{command}, with user and password in the address"


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the database file in `uri`, or None if the store isn't SQLite.

    As SQLAlchemy reads it: %25 stands for %, and %3F for ?, which would begin the options.
    """
    # By hand: every command asks this at its start, and the import of SQLAlchemy takes a quarter of a second.
    scheme, _, rest = uri.partition(":///")
    if scheme != "sqlite":
        return None
    return Path(os.path.abspath(os.fsdecode(unquote_to_bytes(os.fsencode(rest.partition("?")[0])))))


def sqlite_uri(path: Path) -> str:
    """Return the address of the database file at `path`, as `sqlite_path` reads it."""
    return f"sqlite:///{quote(os.fsencode(path.absolute()))}"


def artifact_folder(uri: str) -> Path | None:
    """Return the folder in which experiments get theirs for artifacts; None where a server decides."""
    path = sqlite_path(uri)
    if path is not None:
        return path.parent / "artifacts"
    return None if is_server(uri) else Path("mlruns/artifacts").absolute()


def is_server(uri: str) -> bool:
    """Whether `uri` is the address of a tracking server, not of a database."""
    return uri.lower().startswith(("http://", "https://"))


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


@functools.cache
def warn_of_unused_variables() -> None:
    """Warn, once in a process, of variables that MLflow's users expect to have an effect."""
    if names := [name for name in UNUSED_VARIABLES if os.environ.get(name)]:
        log.warning(
            "%s: set, but not used here. Each run is a new one, and MLFLOW_EXPERIMENT_NAME chooses its experiment.",
            ", ".join(names),
        )
