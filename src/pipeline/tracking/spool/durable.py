"""Waiting until files are safe from a power cut."""

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """Wait until what `path` holds is on the disk: a file's bytes, or a folder's entries.

    Raises:
        OSError: it is gone, or the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Wait until `path`, with all that lies in it where it is a folder, and its own entry are on the disk."""
    for inner in path.rglob("*") if path.is_dir() else ():
        sync_path(inner)
    sync_path(path)
    sync_path(path.parent)
