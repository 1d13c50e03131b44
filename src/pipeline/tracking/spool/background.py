"""The thread that sends a run's spool to MLflow while the run trains, so that training never waits for it."""

import functools
import logging
import re
import threading
import time
from typing import TYPE_CHECKING

from lr_study.masking import mask_passwords
from pipeline.tracking.spool.record import Spool
from pipeline.tracking.target import TrackingTarget, sqlite_path

if TYPE_CHECKING:
    from pipeline.tracking.spool.uploader import Uploader

log = logging.getLogger("pipeline.tracking")
# Seconds between two sendings, so that metrics go out together; and at most between two attempts that fail.
SEND_SECONDS = 5.0
RETRY_SECONDS = 30.0
# A run that has ended waits so long, in seconds, for one answer of a server that hangs …
PATIENCE = 15.0
# … but hardly at all where this process met that before: a sweep's trials would wait one after the other …
HURRIED_PATIENCE = 4.0
FAILED_RECENTLY = 60.0
# … and long for a database in a file, which doesn't hang: others are writing.
FILE_PATIENCE = 180.0
# What says most, wherever it stands in what a library has to say.
KNOWN = re.compile(
    r"Connection refused|timed out|Name or service not known|Network is unreachable|disk is full"
    r"|too many \d+ error responses"
)


class BackgroundUploader:
    """Sends `spool` until all of it is there, or until it is told to stop; then lets go of it.

    Attributes:
        failure: why sending failed the last time, or None.
    """

    _failed_at = -float("inf")  # of this process, whichever run it was

    def __init__(self, spool: Spool, target: TrackingTarget, is_new: bool, quiet: bool) -> None:
        self.spool = spool
        self.target = target
        self.failure: Exception | None = None
        self._is_new = is_new
        self._quiet = self._quiet_about_artifacts = quiet
        self._run_id: str | None = None
        self._delivered = False
        self._stopping = False
        self._has_stopped = False
        self._is_prepared = False
        self._changed = threading.Condition()
        # A daemon: a server that hangs must not keep the process.
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def run_id(self, timeout: float) -> str | None:
        """The run's id in MLflow; None where MLflow can't be reached, or gives none within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._run_id is not None or self.failure is not None, timeout)
            return self._run_id

    def finish(self) -> bool:
        """The run has ended: wait until all is sent, unless the server is away; True if it is."""
        failed = self.failure is not None or time.monotonic() - BackgroundUploader._failed_at < FAILED_RECENTLY
        patience = FILE_PATIENCE if sqlite_path(self.target.uri) else HURRIED_PATIENCE if failed else PATIENCE
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            # As long as something gets through, sending may take its time; a server that hangs gets one chance.
            # Importing MLflow takes its time on a busy machine, and can't hang.
            before = None
            while not self._has_stopped and not (self._is_prepared and before == self.spool.progress()):
                before = self.spool.progress() if self._is_prepared else None
                self._changed.wait_for(lambda: self._has_stopped, patience)
            return self._delivered

    def _work(self) -> None:
        pause, sent_others = SEND_SECONDS, False
        delivery = None
        while True:
            stopping = self._stopping
            try:
                if delivery is None:
                    # Imported here: it takes a second, which is better spent beside the training.
                    from pipeline.tracking.spool.uploader import Uploader
                    from pipeline.tracking.store import open_store

                    delivery = Uploader(self.spool, functools.partial(open_store, self.target.uri), self._is_new)
                    self._is_prepared = True
                self._delivered = delivery.send()
                failure, pause = None, SEND_SECONDS
            except Exception as error:
                failure, pause = error, 1.0 if self.failure is None else min(2 * pause, RETRY_SECONDS)
                BackgroundUploader._failed_at = time.monotonic()
            self._note(delivery, failure)
            if self._delivered or stopping:
                break
            if failure is None and not sent_others:
                sent_others = True  # the store answers: what earlier runs could not send goes out now
                self._send_leftovers()
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, pause)
        if self._delivered and not self.spool.is_resumable():
            self.spool.remove()
        else:
            self.spool.release()
        with self._changed:
            self._has_stopped = True
            self._changed.notify_all()

    def _note(self, delivery: "Uploader | None", failure: Exception | None) -> None:
        with self._changed:
            self._run_id, self.failure = None if delivery is None else delivery.run_id, failure
            self._changed.notify_all()
        if failure is not None and not self._quiet:
            self._quiet = True  # one warning a run is enough
            log.warning(
                "MLflow at %s can't be written (%s).\nThe run goes on, recorded in %s; it is sent when MLflow answers.",
                *(mask_passwords(self.target.uri), reason_of(failure), self.spool.path.parent),
            )
        if delivery and (reason := delivery.aside.reason) is not None and not self._quiet_about_artifacts:
            self._quiet_about_artifacts = True
            log.warning(
                "MLflow at %s answers, but not all artifacts can be stored (%s).\nThey are kept in %s, and sent later.",
                *(mask_passwords(self.target.uri), reason_of(reason), self.spool.path.parent),
            )

    def _send_leftovers(self) -> None:
        from pipeline.tracking.spool.recovery import upload_unsent

        try:
            upload_unsent(self.spool.path.parent, self.target.uri)
        except Exception:
            log.debug("what earlier runs left can't be sent now", exc_info=True)


def reason_of(error: BaseException) -> str:
    """What went wrong, in one short line without passwords: what the system said, where that is behind it."""
    text = str(error).strip()
    if (found := KNOWN.search(text)) is not None:
        return found.group()
    return mask_passwords(text.splitlines()[0])[:160] if text else type(error).__name__
