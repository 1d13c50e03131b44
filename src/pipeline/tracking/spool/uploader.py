"""Sending a spool to MLflow: from where it left off, in order, each thing once, however often it is interrupted."""

import logging
from collections.abc import Callable, Sequence

from mlflow.entities import Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException, RestException

from lr_study.masking import mask_passwords
from pipeline.tracking.spool.batch import Batch, Item, dataset_input, name_of
from pipeline.tracking.spool.creation import NOT_FOUND, GoneError, find_run, make_run, open_again
from pipeline.tracking.spool.deferred import DeferredArtifacts
from pipeline.tracking.spool.record import Record, Spool
from pipeline.tracking.store import Store, open_store

log = logging.getLogger("pipeline.tracking")
# What MLflow answers to a request that will never be taken, however often it is repeated.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", NOT_FOUND, "INVALID_STATE")


class DeletedError(Exception):
    """Somebody has deleted the run in MLflow."""


class Uploader:
    """Sends one spool; `send` may be called again and again while the spool grows.

    Everything may be sent twice and counts once: a run is looked for by its key before it is made where an earlier
    attempt may have made it; MLflow keeps one of two equal metrics (same key, step, time and value), parameters,
    tags and inputs; an artifact replaces itself.

    Args:
        spool: what to send; its lock is held by this process.
        connect: opens the store of the experiment with that name.
        is_new: whether the spool was begun by this process just now, so that no run can be there yet.
        insist: try at once to store what earlier attempts set aside.

    Attributes:
        run_id: the run in MLflow, once it is there.
        aside: artifacts that MLflow's store didn't take.
        refused: what MLflow will never take, and why.
    """

    def __init__(
        self, spool: Spool, connect: Callable[[str], Store], is_new: bool = False, insist: bool = False
    ) -> None:
        self.spool = spool
        self.refused: list[str] = []
        done = spool.progress()
        self.run_id: str | None = done.get("run_id")
        self.aside = DeferredArtifacts(done, insist)
        self._position: int = done.get("position", 0)
        # Whether another record made the run, and told it what is said once.
        self._was_there: bool = done.get("was_there", False)
        self._connect = connect
        self._may_exist = not is_new
        self._is_doubtful = False
        self._was_forgotten = False
        self._is_deleted = False
        self._store: Store | None = None
        # Judged by what was read and sent, not by the file: the run may write its end in between.
        self._has_ended = not is_new and spool.has_ended()

    def send(self) -> bool:
        """Send what there is; True where the run has ended and all of it is sent.

        Raises:
            Exception: the store can't be reached now; try again later.
        """
        self.spool.sync()
        try:
            self._send()
        except GoneError:
            self._forget()
            self._send()
        return self._has_ended and not self.aside

    def is_running(self) -> bool:
        """Whether MLflow has the run down as running still; to be asked after `send`."""
        return str(self._get_run().info.status) == "RUNNING"

    def _send(self) -> None:
        header = self.spool.header
        if self._store is None:
            self._store = self._connect(header["experiment"])
        if self.run_id is None:
            self._create(self._store, header)
        try:
            self._send_new()
            self._send_aside()
        except DeletedError:
            self._leave_out_the_rest()

    def _create(self, store: Store, header: Record) -> None:
        found = find_run(store, header) if self._may_exist or "find" in header else None
        if found is None:
            self._is_doubtful, self._may_exist = self._may_exist, True  # until MLflow has answered, nobody knows
            run_id = make_run(store, header, parent_by_name=self._was_forgotten)
            self._was_there = False
        else:
            run_id = str(found.info.run_id)
            # Where an answer was lost, it is this record's own run that is found.
            self._was_there = found.data.tags.get("run_key") != header["key"]
            if "find" in header:
                open_again(store, run_id, header)
        self.run_id = run_id  # last: what failed half way is done again
        self._note(0)

    def _forget(self) -> None:
        """Begin from the record's start, in whatever the store is now."""
        if self.run_id is not None:
            log.warning("Run %s isn't in MLflow any more (another database?): it is sent anew.", self.run_id)
        self.run_id, self._position, self._was_forgotten, self._may_exist = None, 0, True, True
        self.aside.positions.clear()
        self._store = None
        open_store.cache_clear()  # the experiment has another id there

    def _send_new(self) -> None:
        begin = self._position
        batch = Batch(begin)
        for record, position in self.spool.read(self._position):
            if "end" in record:
                batch.add_tag("status", record["end"])  # in one request with the last metrics
            if not batch.take(record, self._was_there):
                self._send_batch(batch)
                batch = Batch(begin)
                if not batch.take(record, self._was_there):
                    self._send_single(record, begin)
            batch.position = begin = position
            self._has_ended = "end" in record
            if not batch.items:
                self._note(position)
        self._send_batch(batch)

    def _send_batch(self, batch: Batch) -> None:
        if batch.items:
            self._send_items(batch.items)
            self._note(batch.position)

    def _send_items(self, items: Sequence[Item]) -> None:
        """Send them at once; where MLflow refuses that, by halves, so that only what it will never take is left out."""
        try:
            self._log(items)
        except MlflowException as error:
            if not self._is_refused(error):
                raise
            if len(items) == 1:
                self._leave_out(name_of(items[0]), error)
                return
            middle = len(items) // 2
            self._send_items(items[:middle])
            self._send_items(items[middle:])

    def _send_single(self, record: Record, begin: int) -> None:
        if "text" in record or "file" in record:
            self._store_artifact(record, begin)
            return
        try:
            self._tell(record)
        except MlflowException as error:
            if not self._is_refused(error):
                raise
            self._leave_out("a part", error)

    def _tell(self, record: Record) -> None:
        store, run_id = self._store, self.run_id
        assert store is not None
        assert run_id is not None
        if "dataset" in record:
            store.client.log_inputs(run_id, [dataset_input(record["dataset"])])
        elif "reopened" in record:
            store.client.update_run(run_id, status="RUNNING")
            store.client.delete_tag(run_id, "status")
        elif "end" in record:
            store.client.set_terminated(run_id, record["mlflow_status"], end_time=record["time"])
            if self._is_doubtful:
                find_run(store, self.spool.header, run_id)

    def _store_artifact(self, record: Record, begin: int) -> None:
        """Store an artifact, or set it aside where MLflow answers and only this can't be stored."""
        try:
            self._log_artifact(record)
        except Exception as error:  # of a file system, or whatever a cloud's client has to say
            if not (isinstance(error, MlflowException) and self._is_refused(error)):
                self._get_run()  # else it is MLflow that is away: nothing else would get through either
                self.aside.add(begin, error)
                return
            self._leave_out(f"the artifact {record.get('path') or record['file']}", error)
        self.aside.remove(begin)

    def _log_artifact(self, record: Record) -> None:
        store, run_id = self._store, self.run_id
        assert store is not None
        assert run_id is not None
        # A forged record must neither send what lies outside of its folder nor write outside of the run's artifacts.
        paths = [record.get(key) or "" for key in ("file", "folder", "path")]
        if any(path.startswith("/") or ".." in path.split("/") for path in paths):
            log.warning("%s has a path that leaves its folder, and is left out.", self.spool.path)
        elif "text" in record:
            store.client.log_text(run_id, record["text"], record["path"])
        else:
            file = self.spool.files / record["file"]
            if file.is_dir() and not file.is_symlink():
                store.client.log_artifacts(run_id, str(file), record["folder"])
            elif file.is_file() and not file.is_symlink():
                store.client.log_artifact(run_id, str(file), record["folder"] or None)

    def _send_aside(self) -> None:
        if not self.aside.is_due():
            return
        self.aside.wait_longer()
        for begin in list(self.aside.positions):
            record, _ = next(self.spool.read(begin))
            self._store_artifact(record, begin)
        self._note(self._position)

    def _is_refused(self, error: MlflowException) -> bool:
        """Whether MLflow will never take what it didn't take just now.

        Raises:
            GoneError, DeletedError: it will take nothing more of this run.
        """
        # What has no JSON in it was said by something on the way to MLflow, which may be mended.
        is_answer = error.error_code != "BAD_REQUEST" or isinstance(error, RestException)
        if error.error_code not in REFUSALS or not is_answer:
            return False
        if self._get_run().info.lifecycle_stage == "deleted":
            raise DeletedError(f"run {self.run_id} was deleted")
        return True

    def _get_run(self) -> MlflowRun:
        assert self._store is not None
        assert self.run_id is not None
        try:
            return self._store.client.get_run(self.run_id)
        except MlflowException as error:
            if error.error_code != NOT_FOUND:
                raise
            raise GoneError(f"run {self.run_id} isn't in MLflow any more") from error

    def _leave_out(self, what: str, error: MlflowException) -> None:
        reason = mask_passwords(str(error).splitlines()[0])[:200]
        self.refused.append(f"{what}: {reason}")
        log.warning("MLflow refuses %s of run %s, which is left out (%s).", what, self.run_id, reason)

    def _leave_out_the_rest(self) -> None:
        if not self._is_deleted:
            log.warning("Run %s was deleted in MLflow: what is not there yet is left out.", self.run_id)
        self._is_deleted = True
        for record, position in self.spool.read(self._position):
            self._position, self._has_ended = position, "end" in record
        self.aside.positions.clear()
        self._note(self._position)

    def _log(self, items: Sequence[Item]) -> None:
        assert self._store is not None
        assert self.run_id is not None
        self._store.client.log_batch(
            self.run_id,
            metrics=[item for item in items if isinstance(item, Metric)],
            params=[item for item in items if isinstance(item, Param)],
            tags=[item for item in items if isinstance(item, RunTag)],
        )

    def _note(self, position: int) -> None:
        assert self.run_id is not None
        self._position = position
        more = {"was_there": self._was_there, "retry_at": self.aside.retry_at}
        self.spool.note_progress(self.run_id, position, self.aside.positions, **more)
