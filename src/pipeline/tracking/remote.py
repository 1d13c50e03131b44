"""Keep a tracking server from naming any folder of this machine as the place of a run's files.

A server without an artifact store of its own names a folder that its clients share with it. Since MLflow reads and
writes whatever folder is named, the user has to trust that folder.
"""

import contextlib
import os
from collections.abc import Collection, Iterator
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
    from mlflow.utils.file_utils import local_file_uri_to_path

    known = [os.path.realpath(name) for name in trusted if os.path.isabs(name)]
    try:
        folder = os.path.realpath(local_file_uri_to_path(artifact_uri))
    except ValueError:
        folder, known = artifact_uri, []
    if not any(os.path.commonpath([folder, above]) == above for above in known):
        raise RequestError(
            f"{artifact_uri}: the server names this folder of your own machine as the place of a run's files."
            f"\nIf you know that server, and share the folder with it: --trust {folder}."
        )


@contextlib.contextmanager
def no_local_artifacts(uri: str, trusted: Collection[str]) -> Iterator[None]:
    """Inside the block, keep MLflow from opening a folder that the server at `uri` names, unless it is trusted.

    MLflow asks the server for a run's artifact address whenever it opens it, and each answer may be another one. So the
    check has to stand where MLflow opens a folder. MLflow has no hook there, so its class is patched for the block.
    """
    if not is_server(uri):
        yield
        return
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    begin = LocalArtifactRepository.__init__

    def guarded(self: Any, artifact_uri: str, *arguments: Any, **options: Any) -> None:
        _check_folder(artifact_uri, trusted)
        begin(self, artifact_uri, *arguments, **options)

    LocalArtifactRepository.__init__ = guarded  # type: ignore[method-assign]
    try:
        yield
    finally:
        LocalArtifactRepository.__init__ = begin  # type: ignore[method-assign]
