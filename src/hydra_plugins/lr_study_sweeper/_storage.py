"""Optuna's storage: a journal file whose lock dies with its owner, or a database."""

import functools
import os
import shutil
from pathlib import Path

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock


class _KernelLock(JournalFileOpenLock):
    """A lock that the operating system drops when its holder dies.

    Optuna's own journal locks are files that outlive a killed process, and then make everyone wait.
    """

    def __init__(self, journal: str) -> None:
        super().__init__(journal)
        self._kernel_lock = FileLock(f"{journal}.lock")

    def acquire(self) -> bool:
        self._kernel_lock.acquire()
        return True

    def release(self) -> None:
        self._kernel_lock.release()


def is_database(storage: str) -> bool:
    """Whether `storage` is a database URL rather than the path of a journal file."""
    return "://" in storage


@functools.lru_cache(maxsize=4)
def open_storage(storage: str) -> BaseStorage:
    """Open a journal (an absolute path) or a database, once for each process."""
    if is_database(storage):
        return RDBStorage(storage)
    return JournalStorage(JournalFileBackend(storage, lock_obj=_KernelLock(storage)))


def prepare_journal(storage: str) -> None:
    """Make the journal's folder, and cut an incomplete last line off (a copy is kept beside it).

    A process killed while it appends leaves half a line; the next append would turn it into a line that
    nothing can read.
    """
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.stat().st_size == 0:
        return
    with FileLock(f"{storage}.lock"), open(path, "rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            shutil.copyfile(path, path.with_suffix(".torn"))
            file.truncate(end)
            file.flush()
            os.fsync(file.fileno())
