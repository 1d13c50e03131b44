"""What is wrong where MLflow's store can't be used, whether that may pass, and what mends it. Imports no mlflow."""

import contextlib
import functools
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from lr_study.errors import reason_of
from lr_study.masking import mask_passwords
from pipeline.errors import RequestError, RunError, request_error_behind
from pipeline.tracking.target import sqlite_path, sqlite_uri

# MLflow's own words where the revision of a database's tables is not the one that the installed MLflow works with.
_OTHER_SCHEMA = re.compile(r"database schema \(found version (\w+)")
# MLflow's codes for a server's answers that refuse access, and HTTP's.
_NO_ACCESS = {"UNAUTHENTICATED": 401, "CUSTOMER_UNAUTHORIZED": 401, "PERMISSION_DENIED": 403}
# What SQLite, PostgreSQL, MySQL and OpenSSL say, and what mends it.
_LASTING = {
    r"file is not a database": "Move that file away, or choose another tracking.uri.",
    r"database disk image is malformed": "Restore the file from a copy, or choose another tracking.uri.",
    r"readonly database": "Make the file writable, or choose another tracking.uri.",
    r"authentication failed|Access denied for user|no password supplied": "Give the right user and password.",
    r"database \S+ does not exist|Unknown database": "Create that database, or choose another tracking.uri.",
    r"certificate verify failed": "Set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of its certificates.",
}


class StoreUnavailableError(RunError):
    """MLflow can't be read or written now; it answered before."""


@contextlib.contextmanager
def read_errors(uri: str) -> Iterator[None]:
    """Turn any error inside the block into a RequestError that says why the store at `uri` can't be read."""
    try:
        yield
    except Exception as error:  # of requests, urllib3, SQLAlchemy, a database's driver, MLflow …
        raise lasting_fault(error, uri) or RequestError(
            f"{mask_passwords(uri)}: MLflow can't be read there ({reason_of(error)})."
            "\nStart its server, or name another store: --tracking-uri."
        ) from None


@contextlib.contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn any error inside the block into one that says why the store at `uri` can't be used.

    Raises:
        RequestError: the cause can't pass by itself.
        StoreUnavailableError: it may.
    """
    try:
        yield
    except StoreUnavailableError:
        raise
    except Exception as error:  # of requests, urllib3, SQLAlchemy, MLflow, a cloud's client …
        raise lasting_fault(error, uri) or StoreUnavailableError(
            f"MLflow at {mask_passwords(uri)} can't be used now ({reason_of(error)})."
        ) from error


def lasting_fault(error: BaseException, uri: str) -> RequestError | None:
    """Return what to tell the user where `error`, of the store at `uri`, can't pass by itself; None where it may."""
    if (found := request_error_behind(error)) is not None:
        return found
    text = ""
    link: BaseException | None = error
    while link is not None:
        text += f"{link}\n"
        link = link.__cause__ or link.__context__
    if match := _OTHER_SCHEMA.search(text):
        return other_schema(uri, match.group(1))
    shown = mask_passwords(uri)
    if (status := _NO_ACCESS.get(getattr(error, "error_code", ""))) is not None:
        return RequestError(
            f"{shown}: the server refuses access ({status})."
            "\nSet MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, as it asks for."
        )
    if isinstance(error, ModuleNotFoundError):
        return RequestError(f"{shown}: MLflow needs the package {error.name} for it.\nInstall it.")
    for pattern, remedy in _LASTING.items():
        if match := re.search(pattern, text):
            return RequestError(f"{shown}: MLflow can't use it ({match.group()}).\n{remedy}")
    return None


def other_schema(uri: str, revision: str | None) -> RequestError:
    """Say what to do with a database whose tables have another revision than the installed MLflow works with."""
    from importlib.metadata import version  # of many modules, which every command would import

    shown, installed = mask_passwords(uri), version("mlflow")
    if revision in schema_revisions():
        return RequestError(
            f"{shown}: this database is of an older MLflow than the installed one, {installed}."
            f"\nMake a copy of it, and then bring it up to date: mlflow db upgrade {_for_mlflow(uri)}"
        )
    return RequestError(
        f"{shown}: this database is of a newer MLflow than the installed one, {installed} (revision {revision})."
        "\nInstall the MLflow that made it, or choose another tracking.uri."
    )


def deleted_experiment(uri: str, name: str, experiment_id: str) -> RequestError:
    """Say how to get back the experiment `name`, which somebody has deleted in MLflow."""
    return RequestError(
        f"{mask_passwords(uri)}: the experiment {name} was deleted there. Choose another (tracking.experiment, or"
        f" --experiment), or restore it:\nMLFLOW_TRACKING_URI={_for_mlflow(uri)}"
        f" mlflow experiments restore --experiment-id {experiment_id}"
    )


@functools.cache
def schema_revisions() -> dict[str, str | None]:
    """Return each revision of the tables that the installed MLflow knows, with the one before it.

    They are read from its files: the import of MLflow takes two seconds, and a run checks its database before.
    """
    spec = find_spec("mlflow")
    folder = Path(spec.origin if spec and spec.origin else "").parent / "store" / "db_migrations" / "versions"
    found: dict[str, str | None] = {}
    for file in folder.glob("*.py"):
        values = dict(
            re.findall(r"^(revision|down_revision) = [\"']?(\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        )
        if "revision" in values:
            found[values["revision"]] = values.get("down_revision")
    return found


def latest_revision() -> str | None:
    """Return the revision that the installed MLflow works with; None where its files don't say it."""
    last = set(schema_revisions()) - set(schema_revisions().values())
    return last.pop() if len(last) == 1 else None


def _for_mlflow(uri: str) -> str:
    """Return the address as a shell's word for MLflow's own commands, without its password."""
    path = sqlite_path(uri)
    return shlex.quote(mask_passwords(uri) if path is None else sqlite_uri(path))
