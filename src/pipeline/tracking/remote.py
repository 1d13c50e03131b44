"""Tracking servers that name a folder of this machine as the place of a run's files.

A server without artifacts of its own does that, and its clients share the folder. But what a server names is read, and
written to: one that isn't known could name any folder.
"""

import contextlib
import os
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import RequestError
from pipeline.tracking.target import is_server


def check_not_local(artifact_uri: str, trusted: Collection[str]) -> None:
    """Refuse an address of files that is a folder of this machine, unless it is below one of those in `trusted`.

    Raises:
        RequestError: with the folder.
    """
    try:
        scheme = urlsplit(artifact_uri).scheme
    except ValueError:
        scheme = ""
    if len(scheme) < 2 or scheme == "file":  # one letter is a drive of Windows
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
            f"{artifact_uri}: the server says that a run's files are in this folder of your own machine."
            f"\nIf you know that server, and share the folder with it: --trust {folder}."
        )


@contextlib.contextmanager
def no_local_artifacts(uri: str, trusted: Collection[str]) -> Iterator[None]:
    """As long as the block lasts, neither read nor write a folder that the server at `uri` names and nobody trusts.

    MLflow asks the server for the place with each run, and a server may answer now so, now otherwise: so it is checked
    where MLflow opens the place.
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
