"""A spool: a run's record on disk, written before any of it is sent to MLflow.

A spool is a file of JSON lines, `KEY.jsonl`, that only grows. The first line says which run it is, the last one how the
run ended. Between them are params, metrics, tags and artifacts, in the order in which they were logged. Beside it lie

- `KEY.lock`, held by the process that writes or sends the spool; the system frees it when that process dies;
- `KEY.sent`, how much of the spool was sent;
- `KEY/`, the artifacts that are files.

Nothing here knows MLflow: `pipeline.tracking.spool.uploader` sends spools.
"""

import contextlib
import errno
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.recipe.statuses import CRASHED

Record = dict[str, Any]
# The checkpoint, among a spool's files, that a resumed run starts from.
RESUMED_FROM = "last.pt"


class Spool:
    """One run's record. `Spool.create` and `Spool.open` take its lock.

    Attributes:
        path: the file of JSON lines.
        size: the file's length in bytes.
        error: why the file could not be written, or None. Later records are kept in memory only.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self.size = 0
        self.error: OSError | None = None
        self._lock = lock
        self._in_memory: list[Record] = []
        self._descriptor: int | None = None
        # Files and folders that a power cut could still take, and how much of `path` it could not.
        self._unsynced: list[Path] = []
        self._synced_size = 0
        self._syncing = threading.Lock()

    @classmethod
    def create(cls, folder: Path, header: Record) -> "Spool":
        """Create a spool in `folder` with its first line; in memory, if the disk can't be written."""
        key = uuid.uuid4().hex
        path = folder / f"{key}.jsonl"
        spool = cls(path, _lock(path))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            spool._lock.acquire(timeout=0)
            spool._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            spool._unsynced.append(folder)
        except OSError as error:
            spool.error = error
        spool.append({"key": key, **header})
        return spool

    @classmethod
    def open(cls, path: Path, seconds: float = 0) -> "Spool | None":
        """Open the spool that another process left; None if a process holds it for `seconds`, or it is empty."""
        lock = _lock(path)
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            return None
        spool = cls(path, lock)
        try:
            # A process that died while it wrote leaves half a line.
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
            spool._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            if not path.exists():
                spool.release()
                path.with_suffix(".lock").unlink(missing_ok=True)
                return None
            spool.error = error
        spool.size = spool._synced_size = path.stat().st_size
        if not spool.size:
            spool.remove()  # its process died before it wrote the first line
            return None
        return spool

    @property
    def files(self) -> Path:
        """The folder of the artifacts that are files."""
        return self.path.with_suffix("")

    @property
    def header(self) -> Record:
        """The first record."""
        return next(self.read())[0]

    @property
    def is_on_disk(self) -> bool:
        """Whether all records are in the file, and nobody has deleted it."""
        return not self._in_memory and self.path.exists()

    def append(self, record: Record) -> None:
        """Append one line, in one write. It doesn't wait for the disk; `sync` does."""
        if self.error is None and self._descriptor is not None:
            line = (json.dumps(record, separators=(",", ":")) + "\n").encode()
            try:
                if os.write(self._descriptor, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                # Asked, not added up: a signal handler may have raised between an earlier write and this line.
                self.size = os.fstat(self._descriptor).st_size
                return
            except OSError as error:
                self.error = error
                with contextlib.suppress(OSError):  # then `open` cuts the half line, in the process that sends it
                    os.truncate(self.path, self.size)
        self._in_memory.append(record)

    def append_end(self, status: str, mlflow_status: str) -> None:
        """Append the last record: how the run ended, for the tag `status` and for MLflow's own status."""
        self.append({"end": status, "mlflow_status": mlflow_status, "time": int(time.time() * 1000)})

    def keep_file(self, file: Path) -> str:
        """Copy `file` into `files`, unless it is there, and return its name; OSError if the disk can't be written."""
        kept = self.files / file.name
        if kept != file:
            self.files.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, kept)
        self._unsynced += [*kept.rglob("*"), kept, self.files, self.path.parent]
        return file.name

    def sync(self) -> None:
        """Wait until a power cut can't take what was appended and kept so far; OSError if the disk can't be written."""
        with self._syncing:
            if self._descriptor is None:
                return
            size = self.size
            while self._unsynced:  # before the lines that name these files
                with contextlib.suppress(FileNotFoundError):
                    _sync_path(self._unsynced[0])
                del self._unsynced[0]
            if self._synced_size < size:
                os.fsync(self._descriptor)
                self._synced_size = size

    def read(self, position: int = 0) -> Iterator[tuple[Record, int]]:
        """Read the records from `position` on, each with the position after it."""
        if position < self.size:
            with open(self.path, "rb") as file:
                file.seek(position)
                for line in file.read(self.size - position).splitlines(keepends=True):
                    position += len(line)
                    yield json.loads(line), position
        # Positions beyond the file's end count records in memory. If the file grew meanwhile, stop before them.
        beyond = position - self.size
        for record in self._in_memory[beyond:] if beyond >= 0 else ():
            position += 1
            yield record, position

    def ending(self) -> str | None:
        """Return the status with which the run ended; None if the last record is no end."""
        *_, (last, _) = self.read()
        return last.get("end")

    def is_resumable(self) -> bool:
        """Whether the run crashed, was started with resume=auto, and left a checkpoint."""
        return (self.files / RESUMED_FROM).is_file() and bool(self.header.get("resumable")) and self.ending() in CRASHED

    def release(self) -> None:
        """Free the lock, so that another process may open the spool."""
        with self._syncing:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        self._lock.release()

    def remove(self) -> None:
        """Delete the spool, all of which is in MLflow."""
        shutil.rmtree(self.files, ignore_errors=True)
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".sent").unlink(missing_ok=True)
        self.release()
        self.path.with_suffix(".lock").unlink(missing_ok=True)


def read_header(path: Path) -> Record:
    """Read the first record of the spool at `path`, which another process may hold; empty if there is none yet."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def list_spools(folder: Path) -> list[Path]:
    """List the spools in `folder`: sweeps before their trials, and then the oldest first."""

    def order(path: Path) -> tuple[bool, float]:
        # The header says when the run began. The file's own times are of its last line, or of a copy.
        header = read_header(path)
        began = header.get("time")
        return "sweep" in header or "parent" in header, began if isinstance(began, int | float) else 0

    return sorted((path for path in folder.glob("*.jsonl") if path.is_file()), key=order)


def _lock(path: Path) -> FileLock:
    # One thread acquires it, another one releases it.
    return FileLock(path.with_suffix(".lock"), thread_local=False)


def _sync_path(path: Path) -> None:
    """Wait until the disk holds a file's bytes, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
