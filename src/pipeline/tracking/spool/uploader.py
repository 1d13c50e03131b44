"""Send a spool to MLflow, in order, each record once, however often sending is interrupted."""

import logging
import time
from collections.abc import Sequence

from mlflow.entities import Metric, Param, RunTag

from lr_study.errors import reason_of
from pipeline.tracking.spool.creation import RunGoneError, create_run, delete_duplicates, find_run, reopen_run
from pipeline.tracking.spool.progress import Progress
from pipeline.tracking.spool.spool import Record, Spool
from pipeline.tracking.spool.writer import Item, RunDeletedError, RunWriter, fit_one_request, items_of
from pipeline.tracking.store import Store, open_store

log = logging.getLogger("pipeline.tracking")
ARTIFACTS = {"text", "file"}
SINGLE = {"dataset", "reopened", "end"} | ARTIFACTS
KINDS = {Metric: "metric", Param: "parameter", RunTag: "tag"}
# Seconds until a deferred artifact is tried again: few at first, since the cause may pass; a missing permission lasts.
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 60.0


class Uploader:
    """Sends one spool. `send` may be called again and again while the spool grows.

    Whatever is sent twice counts once. A run is looked up by its key before it is created, if an earlier attempt may
    have created it. MLflow keeps one of two equal metrics (same key, step, time and value), params, tags and inputs. An
    artifact replaces an earlier one of the same path.

    An artifact that can't be stored now although MLflow answers is deferred: later records are sent before it.

    Args:
        spool: what to send; this process holds its lock.
        uri: the store.
        is_new: whether this process has just created the spool, so that MLflow can't have its run yet.
        retry_now: try deferred artifacts at once, however short ago the last attempt was.
    """

    def __init__(self, spool: Spool, uri: str, is_new: bool = False, retry_now: bool = False) -> None:
        self._spool = spool
        self._uri = uri
        self._header = spool.header
        self._progress = Progress.load(spool)
        self.deferred = self._progress.deferred
        self.artifact_error: Exception | None = None  # why this process could not store one
        if retry_now:
            self._progress.retry_at = 0.0
        # Every later process tries again what an earlier one deferred: there may be many, so the pause is long.
        self._pause = LONGEST_PAUSE if self.deferred else FIRST_PAUSE
        self._writer: RunWriter | None = None  # once there is a run
        self._may_exist = not is_new
        self._may_have_duplicates = False
        self._is_deleted = False
        # By the records that were sent, not by the file: the run may append its end while this sends.
        self._has_ended = not is_new and spool.ending() is not None

    @property
    def run_id(self) -> str | None:
        """The run in MLflow, or None before it is created."""
        return self._progress.run_id

    def send(self) -> bool:
        """Send all records that there are; True if the run has ended and nothing is left.

        Raises:
            Exception: the store can't be reached now; try again later.
        """
        self._spool.sync()
        try:
            self._send()
        except RunGoneError:
            self._start_over()
            self._send()
        return self._has_ended and not self.deferred

    def is_running(self) -> bool:
        """Whether the run has the status RUNNING in MLflow; call `send` before."""
        assert self._writer is not None
        return str(self._writer.get_run().info.status) == "RUNNING"

    def _send(self) -> None:
        if self._writer is None:
            store = open_store(self._uri, self._header["experiment"])
            self._writer = RunWriter(store, self.run_id or self._find_or_create(store), self._spool)
        try:
            self._send_records(self._writer)
            self._send_deferred(self._writer)
        except RunDeletedError:
            self._skip_records()

    def _find_or_create(self, store: Store) -> str:
        found = find_run(store, self._header) if self._may_exist or "find" in self._header else None
        if found is None:
            # Until MLflow answers, nobody knows whether it creates a run, now or late.
            self._may_have_duplicates, self._may_exist = self._may_exist, True
            run_id = create_run(store, self._header)
            self._progress.was_there = False
        else:
            run_id = str(found.info.run_id)
            # If an answer was lost, the run that is found is this spool's own.
            self._progress.was_there = found.data.tags.get("run_key") != self._header["key"]
            if "find" in self._header:
                reopen_run(store, run_id, self._header)
        self._progress.run_id = run_id  # last, so that a step that failed is repeated
        self._progress.save(self._spool)
        return run_id

    def _start_over(self) -> None:
        """Forget what was sent: the store is another one now."""
        if self.run_id is not None:
            log.warning("Run %s isn't in MLflow any more (another database?): it is sent anew.", self.run_id)
        self._progress.run_id, self._progress.position = None, 0
        self.deferred.clear()
        self._may_exist = True
        self._writer = None
        # The experiment and the sweep's run have other ids there. The sweep is looked up by its name.
        open_store.cache_clear()
        if "sweep" in self._header:
            self._header.pop("parent", None)

    def _send_records(self, writer: RunWriter) -> None:
        """Send the records that are new, with as many metrics, params and tags in a request as fit."""
        items: list[Item] = []
        begin = self._progress.position
        for record, end in self._spool.read(begin):
            # Records that are for a new run only were sent by the process that created it.
            if not (self._progress.was_there and record.get("if_new")):
                new = items_of(record)
                if not fit_one_request([*items, *new]):
                    self._flush(writer, items, begin)
                items += new
                if not SINGLE.isdisjoint(record):
                    self._flush(writer, items, begin)
                    self._write(writer, record, begin)
                    self._save_position(end)
            begin = end
            self._has_ended = "end" in record
        self._flush(writer, items, begin)

    def _flush(self, writer: RunWriter, items: list[Item], position: int) -> None:
        """Log `items`, empty the list, and save that all records before `position` were sent."""
        if items:
            self._log(writer, items)
            items.clear()
        self._save_position(position)

    def _log(self, writer: RunWriter, items: Sequence[Item]) -> None:
        """Log `items`; if MLflow refuses them, by halves, so that only what it will never take is left out."""
        try:
            writer.log(items)
        except Exception as error:
            if not writer.is_refusal(error):
                raise
            if len(items) == 1:
                self._warn_left_out(f"the {KINDS[type(items[0])]} {items[0].key}", error)
                return
            middle = len(items) // 2
            self._log(writer, items[:middle])
            self._log(writer, items[middle:])

    def _write(self, writer: RunWriter, record: Record, begin: int) -> None:
        """Write the record at `begin`; defer an artifact if MLflow answers and only the artifact can't be stored."""
        is_artifact = not ARTIFACTS.isdisjoint(record)
        try:
            writer.write(record)
        except Exception as error:  # of MLflow, a file system, or a cloud's client
            if writer.is_refusal(error):
                self._warn_left_out(_name_of_record(record), error)
            elif is_artifact:
                writer.get_run()  # raises if MLflow doesn't answer: then nothing else can be sent either
                if begin not in self.deferred:
                    self.deferred.append(begin)
                self.artifact_error = error
                self._progress.retry_at = time.time() + self._pause
                return
            else:
                raise
        if begin in self.deferred:
            self.deferred.remove(begin)
        if "end" in record and self._may_have_duplicates:
            delete_duplicates(writer.store, self._header, writer.run_id)

    def _send_deferred(self, writer: RunWriter) -> None:
        # A longer wait than the longest pause means that the clock was set back.
        if not self.deferred or 0 < self._progress.retry_at - time.time() <= LONGEST_PAUSE:
            return
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        for begin in list(self.deferred):
            record, _ = next(self._spool.read(begin))
            self._write(writer, record, begin)
        self._progress.save(self._spool)

    def _skip_records(self) -> None:
        """Count all records as sent: the run was deleted in MLflow, and stays deleted."""
        if not self._is_deleted:
            log.warning("Run %s was deleted in MLflow: what is not there yet is left out.", self.run_id)
        self._is_deleted = True
        for record, end in self._spool.read(self._progress.position):
            self._progress.position, self._has_ended = end, "end" in record
        self.deferred.clear()
        self._progress.save(self._spool)

    def _warn_left_out(self, what: str, error: Exception) -> None:
        log.warning("MLflow refuses %s of run %s, which is left out (%s).", what, self.run_id, reason_of(error))

    def _save_position(self, position: int) -> None:
        if position != self._progress.position:
            self._progress.position = position
            self._progress.save(self._spool)


def _name_of_record(record: Record) -> str:
    if not ARTIFACTS.isdisjoint(record):
        return f"the artifact {record.get('path') or record['file']}"
    return "the data set" if "dataset" in record else "the status"
