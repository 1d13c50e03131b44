"""Keep a tracking server from naming any folder of this machine as the place of a run's files.

A server without an artifact store of its own names a folder that its clients share with it. Since MLflow reads and
writes whatever folder is named, the user has to trust that folder.
"""

import contextlib
import os
from collections.abc import Collection, Iterator
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import RequestError
from pipeline.tracking.target import is_server


def check_not_local(artifact_uri: str, trusted: Collection[str]) -> None:
    """Raise RequestError for an artifact address that is a folder of this machine, but not in a `trusted` one."""
    try:
        scheme = urlsplit(artifact_uri).scheme
    except ValueError:
        scheme = ""
    if len(scheme) < 2 or scheme == "file":  # one letter is a Windows drive
        _check_folder(artifact_uri, trusted)


def _check_folder(artifact_uri: str, trusted: Collection[str]) -> None:
    try:
        _check_opened(_mlflows_class()(artifact_uri), trusted)
    except RequestError:
        raise
    except ValueError:  # the address can't be read
        raise _refusal(artifact_uri, artifact_uri) from None


def _check_opened(repository: Any, trusted: Collection[str]) -> None:
    known = [os.path.realpath(name) for name in trusted if os.path.isabs(name)]
    try:
        folder = os.path.realpath(repository.artifact_dir)
    except ValueError:  # no name of a folder
        folder, known = repository.artifact_uri, []
    if not any(os.path.commonpath([folder, above]) == above for above in known):
        raise _refusal(repository.artifact_uri, folder)


def _refusal(artifact_uri: str, folder: str) -> RequestError:
    return RequestError(
        f"{artifact_uri}: the server names this folder of your own machine as the place of a run's files."
        f"\nIf you know that server, and share the folder with it: --trust {folder}."
    )


def _mlflows_class() -> Any:
    """MLflow's class that reads and writes files in a folder."""
    try:
        # Private part of MLflow: without it, nothing of a server's is read or written here.
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        LocalArtifactRepository.artifact_dir  # noqa: B018
    except (ImportError, AttributeError):
        raise RequestError(
            f"mlflow {version('mlflow')} can't be kept from using any folder of this machine that a server names."
            "\nInstall the version in constraints.txt."
        ) from None
    return LocalArtifactRepository


@contextlib.contextmanager
def no_local_artifacts(uri: str, trusted: Collection[str]) -> Iterator[None]:
    """Inside the block, keep MLflow from opening a folder that the server at `uri` names, unless it is trusted.

    MLflow asks the server for a run's artifact address whenever it opens it, and each answer may be another one. So the
    check has to stand where MLflow opens a folder. MLflow has no hook there, so its class is patched for the block.
    """
    if not is_server(uri):
        yield
        return
    opened = _mlflows_class()
    begin = opened.__init__

    def guarded(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        _check_opened(self, trusted)

    opened.__init__ = guarded
    try:
        yield
    finally:
        opened.__init__ = begin
