"""Who drives a sweep: a lease in the storage, renewed while its driver lives, and a lock on the sweep's folder."""

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage

from lr_study.errors import SweepRequestError
from lr_study.process import is_alive, this_process
from lr_study.storage import open_storage

RENEW_SECONDS = 10.0
_PREFIX = "driver:"


class Lease:
    """Says in a study's attributes that this process drives the sweep; trials made under it name it.

    Use it as a context manager: a thread renews it every ten seconds, and it ends on leaving.

    Args:
        storage: Optuna's.
        study_id: the study that holds it, the first of the driver's.
    """

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self._storage = storage
        self._study_id = study_id
        self._id = uuid.uuid4().hex[:12]
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    @property
    def address(self) -> list[Any]:
        """The study that holds the lease, and the lease's id."""
        return [self._study_id, self._id]

    def __enter__(self) -> Self:
        self._write(this_process())
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._thread.join(RENEW_SECONDS)
        # A storage that went away must not hide why the sweep ended; the lease runs out by itself.
        with contextlib.suppress(Exception):
            self._write({"ended": True})

    def _renew(self) -> None:
        while not self._left.wait(RENEW_SECONDS):
            with contextlib.suppress(Exception):  # a database may be away for a moment
                self._write(this_process())

    def _write(self, value: dict[str, Any]) -> None:
        self._storage.set_study_user_attr(self._study_id, _PREFIX + self._id, value)


def driver_of(storage: BaseStorage, address: Sequence[Any] | None) -> Mapping[str, Any]:
    """The lease at `address`, live or not; empty where there is none."""
    if not address:
        return {}
    study_id, driver = address
    try:
        return storage.get_study_user_attrs(study_id).get(_PREFIX + driver, {})
    except KeyError:  # the study that held the lease was deleted
        return {}


def is_live(lease: Mapping[str, Any], visible_only: bool) -> bool:
    """Whether a lease's driver is alive; for `visible_only` see `is_alive`."""
    return bool(lease) and "ended" not in lease and is_alive(lease, visible_only)


def refuse_second(studies: Sequence[Mapping[str, Any]], sweep: str) -> None:
    """Refuse to drive a sweep on a journal while another driver does.

    Args:
        studies: the user attributes of the sweep's studies.
        sweep: its name.

    Raises:
        SweepRequestError: with the other driver.
    """
    leases = [value for found in studies for key, value in found.items() if key.startswith(_PREFIX)]
    for lease in leases:
        if is_live(lease, visible_only=True):
            raise _running_already(sweep, f"process {lease['pid']} on {lease['host']}")


@contextlib.contextmanager
def only_driver(folder: Path, sweep: str, url: str) -> Iterator[None]:
    """Lock the folder of a sweep on the journal `url`: a second driver would run its trials twice.

    Raises:
        SweepRequestError: another driver has locked it.
    """
    lock = FileLock(folder / "driver.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        studies = open_storage(url).get_all_studies() if os.path.exists(url) else []
        refuse_second([study.user_attrs for study in studies if study.user_attrs.get("sweep") == sweep], sweep)
        raise _running_already(sweep, "another process") from None
    try:
        yield
    finally:
        lock.release()


def _running_already(sweep: str, who: str) -> SweepRequestError:
    return SweepRequestError(
        f"The sweep {sweep} is running already: {who}."
        "\nWait for it to end; several drivers need a database as hydra.sweeper.storage."
    )
