"""The thread that sends a run's spool to MLflow during the run, so that training never waits for MLflow."""

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from lr_study.errors import reason_of
from lr_study.masking import mask_passwords
from pipeline.errors import RequestError
from pipeline.process import imports
from pipeline.tracking.faults import lasting_fault
from pipeline.tracking.loading import create_database, load_mlflow
from pipeline.tracking.spool.progress import Progress
from pipeline.tracking.spool.spool import Spool
from pipeline.tracking.target import TrackingTarget, sqlite_path

if TYPE_CHECKING:
    from pipeline.tracking.spool.uploader import Uploader

log = logging.getLogger("pipeline.tracking")
# Seconds between two uploads, so that metrics go out together.
SEND_SECONDS = 5.0
# Longest pause after an error, in seconds.
RETRY_SECONDS = 30.0
# Seconds that the end of a run waits for one answer of a server: normally,
PATIENCE = 15.0
# if this process had an error in so many seconds before, since a sweep's trials would wait one after the other,
HURRIED_PATIENCE = 4.0
FAILED_RECENTLY = 60.0
# and for a database in a file, which may be busy with other writers, but never hangs.
FILE_PATIENCE = 180.0


class BackgroundUploader:
    """Sends `spool` until MLflow has all of it, or until the run has ended and MLflow doesn't answer.

    At the end it releases the spool's lock. `is_new` says that this process has just created the spool; `quiet` keeps
    back the warnings that MLflow doesn't answer. `failure` is why the last attempt failed, or None. `refusal` is a
    failure that can't pass by itself, where MLflow has nothing of the run yet; no warning is given of it.
    """

    _failed_at = -float("inf")  # in this process, by any of its runs

    def __init__(self, spool: Spool, target: TrackingTarget, is_new: bool, quiet: bool) -> None:
        self.spool = spool
        self.target = target
        self.failure: Exception | None = None
        self.refusal: RequestError | None = None
        self._is_new = is_new
        self._warns = self._warns_of_artifacts = not quiet
        self._uploader: Uploader | None = None
        self._run_id: str | None = None
        self._is_sent = False
        self._stopping = False
        self._changed = threading.Condition()
        imports.begin()
        # A daemon, so that a server that hangs can't keep the process alive.
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def run_id(self, timeout: float) -> str | None:
        """Wait for the run's id in MLflow; None after an error or `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._run_id is not None or self.failure is not None, timeout)
            return self._run_id

    def finish(self) -> bool:
        """After the run's end, wait until all is sent or MLflow doesn't answer; return whether all was sent."""
        failed = self.failure is not None or time.monotonic() - BackgroundUploader._failed_at < FAILED_RECENTLY
        patience = FILE_PATIENCE if sqlite_path(self.target.uri) else HURRIED_PATIENCE if failed else PATIENCE
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        # Wait as long as records go through. The import of MLflow can be slow on a busy machine, but can't hang.
        before = None
        while self._thread.is_alive() and (self._uploader is None or before != Progress.load(self.spool)):
            before = None if self._uploader is None else Progress.load(self.spool)
            self._thread.join(patience)
        return self._is_sent

    def _work(self) -> None:
        try:
            # In this thread, since it takes a second or two: training goes on meanwhile.
            with contextlib.suppress(Exception):  # the first attempt meets it again, and says what is missing
                load_mlflow(self.target.uri)
                create_database(self.target)
        finally:
            imports.end()
        pause, sent_others = SEND_SECONDS, False
        while True:
            stopping = self._stopping
            try:
                if self._uploader is None:
                    from pipeline.tracking.spool.uploader import Uploader

                    self._uploader = Uploader(self.spool, self.target.uri, self._is_new)
                self._is_sent = self._uploader.send()
                failure, pause = None, SEND_SECONDS
            except Exception as error:
                failure = lasting_fault(error, self.target.uri) or error
                pause = 1.0 if self.failure is None else min(2 * pause, RETRY_SECONDS)
                BackgroundUploader._failed_at = time.monotonic()
            with self._changed:
                self._run_id, self.failure = self._uploader.run_id if self._uploader else None, failure
                self.refusal = failure if isinstance(failure, RequestError) and self._run_id is None else None
                self._changed.notify_all()
            self._warn_once()
            if self._is_sent or stopping:
                break
            if failure is None and not sent_others:
                sent_others = True
                self._send_others()
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, pause)
        if self._is_sent and not self.spool.is_resumable():
            self.spool.remove()
        else:
            self.spool.release()

    def _warn_once(self) -> None:
        place, folder = mask_passwords(self.target.uri), self.spool.path.parent
        if self.failure is not None and self.refusal is None and self._warns:
            self._warns = False
            if isinstance(self.failure, RequestError):
                then = f"Once that is done, this sends it: {self.target.sync_command}"
                log.warning("%s\nThe run goes on, recorded in %s. %s", self.failure, folder, then)
            else:
                then = f"The run goes on, recorded in {folder}; it is sent when MLflow answers."
                log.warning("MLflow at %s can't be written (%s).\n%s", place, reason_of(self.failure), then)
        error = self._uploader.artifact_error if self._uploader else None
        if error is not None and self._warns_of_artifacts:
            self._warns_of_artifacts = False
            log.warning(
                "MLflow at %s answers, but not all artifacts can be stored (%s).\nThey are kept in %s, and sent later.",
                *(place, reason_of(error), folder),
            )

    def _send_others(self) -> None:
        from pipeline.tracking.spool.recovery import upload_unsent

        try:
            upload_unsent(self.spool.path.parent, self.target.uri)
        except Exception:
            log.debug("what earlier runs left can't be sent now", exc_info=True)
