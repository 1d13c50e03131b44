"""Optuna's storage: a journal file whose lock dies with its owner, or a database."""

import contextlib
import functools
import importlib
import os
import random
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from lr_study.errors import SweepRequestError, reason_of
from lr_study.masking import MASK, mask_passwords

# How often a database is tried, and seconds between tries: two drivers that make its tables at once can fail, and a
# server may be away for a moment.
_TRIES, _PAUSE = 5, 0.5
# A database with these tables is Optuna's. If another driver is making one, this one waits so many seconds for them.
_TABLES, _MAKING_SECONDS = {"studies", "trials", "version_info"}, 20.0
# The databases that this process has opened.
_databases: weakref.WeakSet[RDBStorage] = weakref.WeakSet()


class _KernelLock(JournalFileOpenLock):
    """A lock that the operating system releases when its holder dies, and that repairs the journal after such a death.

    Optuna's own journal locks are files, which outlive a killed process and block everyone.
    """

    def __init__(self, journal: str) -> None:
        super().__init__(journal)
        self._journal = journal
        self._kernel_lock = FileLock(f"{journal}.lock")

    def acquire(self) -> bool:
        self._kernel_lock.acquire()
        cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        self._kernel_lock.release()


def cut_torn_line(journal: str) -> None:
    """Remove an incomplete last line, and keep a copy of the journal beside it; the caller holds the lock.

    A process killed while it appends leaves half a line. The next append would make it a line that nothing can read.
    """
    path = Path(journal)
    if not path.exists():
        return
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read(1) in (b"", b"\n"):
            return
        file.seek(0)
        end = file.read().rfind(b"\n") + 1
        shutil.copyfile(path, path.with_suffix(".torn"))
        file.truncate(end)
        file.flush()
        os.fsync(file.fileno())


def is_database(storage: str) -> bool:
    """Whether `storage` is a database URL rather than the path of a journal file."""
    return "://" in storage


@functools.lru_cache(maxsize=4)
def open_storage(storage: str) -> BaseStorage:
    """Open a journal (an absolute path) or a database, once for each process."""
    if not is_database(storage):
        return JournalStorage(JournalFileBackend(storage, lock_obj=_KernelLock(storage)))
    for _ in range(_TRIES - 1):
        try:
            return _open_database(storage)
        except Exception:
            time.sleep(_PAUSE * (1 + random.random()))
    return _open_database(storage)


def _open_database(url: str) -> RDBStorage:
    opened = RDBStorage(url)
    _databases.add(opened)
    return opened


@contextlib.contextmanager
def closing_connections() -> Iterator[None]:
    """After the block, close this process's connections to databases; what uses one later connects again."""
    try:
        yield
    finally:
        for storage in _databases:
            storage.remove_session()
            storage.engine.dispose()


def write_with_retries(write: Callable[[], None]) -> None:
    """Write to the storage, and try again where a database fails; `write` may take effect twice."""
    for attempt in range(_TRIES):
        try:
            write()
            return
        except StorageInternalError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(_PAUSE * 2**attempt * (1 + random.random()))


def prepare_journal(storage: str) -> None:
    """Make the journal's folder, and remove an incomplete last line."""
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{storage}.lock"):
        cut_torn_line(storage)


def check_storage(storage: str) -> None:
    """Refuse a storage that can't be reached, or that isn't Optuna's; write nothing.

    Args:
        storage: an absolute path or a database's URL.

    Raises:
        SweepRequestError: says what is wrong, without passwords.
    """
    fault = _database_fault(storage) if is_database(storage) else _journal_fault(Path(storage))
    if fault:
        raise SweepRequestError(f"hydra.sweeper.storage={mask_passwords(storage)}: {fault}")


def _journal_fault(path: Path) -> str | None:
    if path.is_dir():
        return "it is a folder.\nName a file in it, or a database's URL."
    if path.exists():
        if not path.is_file():
            return "it is no regular file.\nName another file."
        if not os.access(path, os.R_OK | os.W_OK):
            return "no permission to read and write it.\nChange that, or name another file."
        with open(path, "rb") as file:
            first = file.readline()
        if first.endswith(b"\n") and b'"op_code"' not in first:
            return "it is not an Optuna journal.\nName another file; this one stays as it is."
        return None
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is not a folder.\nMove that file, or name another hydra.sweeper.storage."
    if not os.access(folder, os.W_OK):
        return f"no permission to write in {folder}.\nName another hydra.sweeper.storage."
    return None


def _database_fault(url: str) -> str | None:
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        address = make_url(url)
        dialect = address.get_dialect()
        importlib.import_module(dialect.import_dbapi().__name__)
    except ImportError as error:
        return f'it needs the package {error.name}.\nInstall it (for PostgreSQL: pip install "psycopg[binary]").'
    except (ArgumentError, SQLAlchemyError, ValueError):  # the last for a port that is no number
        return "it is no database URL.\nWrite postgresql://USER@HOST/NAME, or the path of a journal."
    if address.get_backend_name() == "sqlite" and address.database and not os.path.exists(address.database):
        return _journal_fault(Path(address.database).absolute())  # connecting would make the file
    engine = create_engine(address)
    try:
        tables = _tables(engine)
    except (SQLAlchemyError, StorageInternalError) as error:
        text = str(getattr(error, "orig", error))
        if address.password:  # the database's driver may name it without the address
            text = text.replace(str(address.password), MASK)
        return f"it can't be reached.\nIt says: {reason_of(RuntimeError(text))}."
    finally:
        engine.dispose()
    if tables and not tables >= _TABLES:
        return "that database is not Optuna's.\nCreate an empty database for it."
    return None


def _tables(engine: Any) -> set[str]:
    """The tables of a database. If another driver seems to be making them, wait until it has.

    SQLite commits each table by itself, so that a second driver may find only some of them.
    """
    from sqlalchemy import inspect

    deadline = time.monotonic() + _MAKING_SECONDS
    while True:
        tables = set(inspect(engine).get_table_names())
        is_half_made = tables & _TABLES and not tables >= _TABLES
        if not is_half_made or time.monotonic() > deadline:
            return tables
        time.sleep(_PAUSE)
