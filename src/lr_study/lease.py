"""The driver's lease: who runs a sweep, renewed while it lives."""

import contextlib
import threading
import uuid
from collections.abc import Mapping
from typing import Any, Self

from optuna.storages import BaseStorage

from lr_study.process import is_alive, this_process

RENEW_SECONDS = 10.0
_PREFIX = "driver:"


class Lease:
    """Says in a study's attributes that this process drives the sweep; trials asked for under it name it.

    Use it as a context manager: it is renewed every ten seconds by a thread, and ended on leaving.

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
        """Where the lease of a trial's driver stands: its study and its id."""
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
            with contextlib.suppress(Exception):  # a database that is away for a moment
                self._write(this_process())

    def _write(self, value: dict[str, Any]) -> None:
        self._storage.set_study_user_attr(self._study_id, _PREFIX + self._id, value)


def live_drivers(attributes: Mapping[str, Any], visible_only: bool) -> list[Mapping[str, Any]]:
    """The processes whose leases in a study's attributes are live; for `visible_only` see `is_alive`."""
    leases = [value for key, value in attributes.items() if key.startswith(_PREFIX)]
    return [lease for lease in leases if "ended" not in lease and is_alive(lease, visible_only)]


def driver_of(storage: BaseStorage, address: list[Any] | None) -> Mapping[str, Any]:
    """The process of the driver at a trial's `address`, alive or not; empty where nothing is known of it."""
    if not address:
        return {}
    study_id, driver = address
    try:
        return storage.get_study_user_attrs(study_id).get(_PREFIX + driver, {})
    except KeyError:  # the study that held the lease was deleted
        return {}


def is_live(storage: BaseStorage, address: list[Any] | None, visible_only: bool) -> bool:
    """Whether the driver at a trial's `address` still lives; for `visible_only` see `is_alive`."""
    lease = driver_of(storage, address)
    return bool(lease) and "ended" not in lease and is_alive(lease, visible_only)
