"""A run's record on disk, written before any of it is sent: what MLflow can't be told yet is kept here.

A spool is one file of JSON lines, `KEY.jsonl`, that is only ever appended to. The first line says which run it is,
the last one how it ended; between them stand parameters, metrics, tags and artifacts in order. Beside it lie

- `KEY.lock`, held by the process that writes or sends it, and freed by the system when that process dies;
- `KEY.sent`, how far it was sent, what was set aside on the way, and the id of the run in MLflow;
- `KEY/`, the files that are artifacts.

Knows nothing of MLflow: `pipeline.tracking.spool.uploader` sends what is here.
"""

import contextlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.recipe.statuses import CRASHED
from pipeline.tracking.spool.durable import sync_path, sync_tree

Record = dict[str, Any]
# Bytes that hold the record of an end, whatever stands before it.
TAIL = 4096
# The file among a run's artifacts that a resumed run starts from.
RESUMED_FROM = "last.pt"


class Spool:
    """One run's record; use `Spool.create` or `Spool.open`, which take its lock.

    Attributes:
        path: the file of JSON lines.
        error: why the file could not be written, if so; what came after that is kept in memory only.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self.error: OSError | None = None
        self._lock = lock
        self._in_memory: list[Record] = []
        self._file_size = 0
        self._descriptor: int | None = None
        self._synced = 0
        # What isn't safe yet from a power cut: entries of the folder, and artifacts.
        self._has_new_entries = False
        self._new_files: list[Path] = []
        self._syncing = threading.Lock()

    @classmethod
    def create(cls, folder: Path, header: Record) -> "Spool":
        """Begin a spool in `folder` with its first line; where the disk refuses, it begins in memory."""
        key = uuid.uuid4().hex
        spool = cls(folder / f"{key}.jsonl", _lock(folder / f"{key}.jsonl"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            spool._lock.acquire(timeout=0)
            spool._descriptor = os.open(spool.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            spool._has_new_entries = True
        except OSError as error:
            spool.error = error
        spool.append({"key": key, **header})
        return spool

    @classmethod
    def open(cls, path: Path, seconds: float = 0) -> "Spool | None":
        """Take over the spool of a process that is gone; None where its process lives, or it is gone too.

        Args:
            path: the file of JSON lines.
            seconds: how long to wait for a process that holds it, as one that sends it does.
        """
        lock = _lock(path)
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            return None
        spool = cls(path, lock)
        try:
            # What was being written when the process died is no record.
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
            spool._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            if not path.exists():
                spool.release()
                path.with_suffix(".lock").unlink(missing_ok=True)
                return None
            spool.error = error
        spool._file_size = spool._synced = path.stat().st_size
        if not spool._file_size:
            spool.remove()  # its process died before it could say whose it is
            return None
        return spool

    @property
    def key(self) -> str:
        """The name by which MLflow's run and this record know each other."""
        return self.path.stem

    @property
    def files(self) -> Path:
        """The folder of the artifacts that are files."""
        return self.path.with_suffix("")

    def append(self, record: Record) -> None:
        """Write one line, in one call and without waiting for the disk (`sync` does)."""
        if self.error is None and self._descriptor is not None:
            line = (json.dumps(record, separators=(",", ":")) + "\n").encode()
            try:
                written = os.write(self._descriptor, line)
                if written == len(line):
                    # Not counted up: a signal's handler may raise between a write and this.
                    self._file_size = os.fstat(self._descriptor).st_size
                    return
                raise OSError(28, "No space left on device")
            except OSError as error:
                self.error = error
                self._cut_torn_line()
        self._in_memory.append(record)

    def append_end(self, status: str, mlflow_status: str) -> None:
        """Write the last record: the tag `status`, and MLflow's own."""
        self.append({"end": status, "mlflow_status": mlflow_status, "time": int(time.time() * 1000)})

    def reopen(self) -> None:
        """Go on after an end."""
        self.append({"reopened": True})

    def keep_file(self, file: Path, name: str) -> str:
        """Copy `file` into the spool, where it isn't there already, and return what it is called there.

        Raises:
            OSError: the disk refuses.
        """
        self.files.mkdir(parents=True, exist_ok=True)
        target = self.files / name
        if target != file:
            shutil.copyfile(file, target)
        self._has_new_entries = True
        self._new_files.append(target)
        return name

    def sync(self) -> None:
        """Wait until what was appended and kept so far is safe from a power cut.

        Raises:
            OSError: the disk refuses.
        """
        with self._syncing:
            if self._descriptor is None:
                return
            size = self._file_size
            while self._new_files:  # before the lines that speak of them
                with contextlib.suppress(FileNotFoundError):
                    sync_tree(self._new_files[0])
                del self._new_files[0]
            if self._has_new_entries:
                self._has_new_entries = False
                sync_path(self.path.parent)
            if self._synced < size:
                os.fsync(self._descriptor)
                self._synced = size

    def read(self, position: int = 0) -> Iterator[tuple[Record, int]]:
        """Whole records from `position` on, each with the position after it."""
        if position < self._file_size:
            with open(self.path, "rb") as file:
                file.seek(position)
                for line in file.read(self._file_size - position).splitlines(keepends=True):
                    position += len(line)
                    yield json.loads(line), position
        # Beyond the file's end a position counts the records in memory; a file that grew meanwhile is read on later.
        beyond = position - self._file_size
        for record in self._in_memory[beyond:] if beyond >= 0 else ():
            position += 1
            yield record, position

    @property
    def header(self) -> Record:
        """The first record."""
        return next(self.read())[0]

    def ending(self) -> str | None:
        """How the run ended, by its last record; None where that isn't an end."""
        if self._in_memory:
            return self._in_memory[-1].get("end")
        with open(self.path, "rb") as file:
            file.seek(max(0, self._file_size - TAIL))
            last = file.read().splitlines()[-1]
        try:
            return json.loads(last).get("end")
        except ValueError:
            return None  # a line longer than what was looked at is no end

    def has_ended(self) -> bool:
        """Whether its last record says how the run ended."""
        return self.ending() is not None

    def is_resumable(self) -> bool:
        """Whether the run ended before its time, asked to be gone on with then, and left a state to do so from."""
        return self.ending() in CRASHED and bool(self.header.get("resumable")) and (self.files / RESUMED_FROM).is_file()

    def is_sent(self) -> bool:
        """Whether an earlier sending got to the end of it, and set nothing aside."""
        done = self.progress()
        return self.is_on_disk and done.get("position") == self._file_size and not done.get("aside")

    @property
    def is_on_disk(self) -> bool:
        """Whether all of it is in the file."""
        return not self._in_memory

    def progress(self) -> Record:
        """What `note_progress` wrote last; empty where nothing was ever sent."""
        try:
            return json.loads(self.path.with_suffix(".sent").read_text())
        except (OSError, ValueError):
            return {}

    def note_progress(self, run_id: str, position: int, aside: Sequence[int] = (), **more: Any) -> None:
        """Remember how far it was sent; the disk isn't waited for, since what is sent twice counts once.

        Args:
            run_id: the run in MLflow.
            position: all records before it were sent …
            aside: … but those that begin at these positions.
            more: further plain values.
        """
        sent = self.path.with_suffix(".sent")
        arriving = sent.with_suffix(".arriving")
        # Positions in memory mean nothing to another process.
        known = {"position": min(position, self._file_size), "aside": [p for p in aside if p < self._file_size]}
        try:
            arriving.write_text(json.dumps({"run_id": run_id, **known, **more}))
            os.replace(arriving, sent)
        except OSError:
            arriving.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go of it: another process may send it."""
        with self._syncing:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        self._lock.release()

    def remove(self) -> None:
        """Delete it: all of it is in MLflow."""
        shutil.rmtree(self.files, ignore_errors=True)
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".sent").unlink(missing_ok=True)
        self.release()
        self.path.with_suffix(".lock").unlink(missing_ok=True)

    def _cut_torn_line(self) -> None:
        with contextlib.suppress(OSError):  # else `open` cuts it, in the process that finds it
            os.truncate(self.path, self._file_size)


def _lock(path: Path) -> FileLock:
    # Taken in one thread and let go of in another.
    return FileLock(path.with_suffix(".lock"), thread_local=False)
