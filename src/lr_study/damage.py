"""Damage in an Optuna journal: which line it is in, and the command that goes on from the lines before it.

Optuna appends a line for every change, and replays all lines when it opens the journal. A line that another program
wrote, or that a disk or an editor garbled, stops the replay. Nothing after it can be used then, since records count
studies and trials in the order in which these were made.
"""

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from lr_study.errors import SweepFailedError, SweepRequestError
from lr_study.storage import is_database


class _Lines(BaseJournalBackend):
    """The lines of a journal, for one replay; `number` is that of the line that was handed out last, from 1."""

    def __init__(self, journal: str) -> None:
        self.number = 0
        self._journal = journal

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        # Optuna's own backend skips a last line that is no JSON, and fails once another follows.
        with open(self._journal, "rb") as file:
            for self.number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):  # an incomplete last line is removed before anything is appended
                    yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise NotImplementedError  # a replay writes nothing


def refuse_damaged(storage: str) -> None:
    """Raise SweepRequestError if `storage` is a journal's absolute path, and a line of it can't be replayed."""
    if damage := _damage_in(storage):
        raise SweepRequestError(damage)


@contextlib.contextmanager
def naming_damage(storage: str) -> Iterator[None]:
    """Raise SweepFailedError if `storage` is a journal that is damaged when the block is left.

    That an error ends the block isn't needed: Optuna fails once at a record that it can't replay, in whichever thread
    reads it, and goes on after it. The next command could not.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if damage := _damage_in(storage):
        raise SweepFailedError(damage) from failure
    if failure is not None:
        raise failure


def _damage_in(journal: str) -> str | None:
    """Replay a journal, and say which line stops the replay; None where none does."""
    if is_database(journal) or not os.path.exists(journal):
        return None
    lines = _Lines(journal)
    try:
        JournalStorage(lines)
    except Exception:
        whole = lines.number - 1
    else:
        return None
    # As seen from the working directory, since the command names it four times.
    shown = os.path.relpath(journal) if journal.startswith(os.path.join(os.getcwd(), "")) else journal
    path, aside = shlex.quote(shown), shlex.quote(f"{shown}.damaged")
    return (
        f"hydra.sweeper.storage={shown}: line {whole + 1} is damaged. Trials recorded before it are kept, later ones "
        f"are run again.\nGo on with: mv {path} {aside} && head -n {whole} {aside} > {path}, then the same command."
    )
