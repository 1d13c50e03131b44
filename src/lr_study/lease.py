"""Who drives a sweep: a lease in the storage, renewed while its driver lives, and a lock on the sweep's folder."""

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage

from lr_study.errors import SweepRequestError
from lr_study.process import is_alive, repeating, this_process
from lr_study.storage import open_storage

RENEW_SECONDS = 10.0
_PREFIX = "driver:"


@contextlib.contextmanager
def hold_lease(storage: BaseStorage, study_id: int) -> Iterator[list[Any]]:
    """Say in a study's attributes, until the block is left, that this process drives the sweep.

    Yields:
        The lease's address, which trials made under it name: the study, and the lease's id.
    """
    driver = uuid.uuid4().hex[:12]

    def write(value: dict[str, Any]) -> None:
        storage.set_study_user_attr(study_id, _PREFIX + driver, value)

    write(this_process())
    try:
        with repeating(lambda: write(this_process()), RENEW_SECONDS, "lease"):
            yield [study_id, driver]
    finally:
        # A storage that went away must not hide why the sweep ended; the lease runs out by itself.
        with contextlib.suppress(Exception):
            write({"ended": True})


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
    """Raise SweepRequestError if the user attributes of a sweep's `studies` name another live driver."""
    leases = [value for found in studies for key, value in found.items() if key.startswith(_PREFIX)]
    for lease in leases:
        if is_live(lease, visible_only=True):
            raise _running_already(sweep, f"process {lease['pid']} on {lease['host']}")


@contextlib.contextmanager
def only_driver(folder: Path, sweep: str, url: str) -> Iterator[None]:
    """Lock the folder of a sweep on the journal `url`, or raise SweepRequestError where another driver has locked it.

    A second driver would run the trials twice.
    """
    try:
        locked = FileLock(folder / "driver.lock").acquire(blocking=False)
    except Timeout:
        studies = open_storage(url).get_all_studies() if os.path.exists(url) else []
        refuse_second([study.user_attrs for study in studies if study.user_attrs.get("sweep") == sweep], sweep)
        raise _running_already(sweep, "another process") from None
    with locked:
        yield


def _running_already(sweep: str, who: str) -> SweepRequestError:
    return SweepRequestError(
        f"The sweep {sweep} is running already: {who}."
        "\nWait for it to end; several drivers need a database as hydra.sweeper.storage."
    )
