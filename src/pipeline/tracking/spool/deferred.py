"""Artifacts that can't be stored now although MLflow answers: later records are sent before them."""

import time

from pipeline.tracking.spool.progress import Progress

# Seconds until the next attempt: short at first, since the cause may pass; a missing permission lasts.
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 60.0


class DeferredArtifacts:
    """A spool's deferred artifacts, and when they are tried again.

    Args:
        progress: the spool's, whose `deferred` and `retry_at` are kept up to date here.
        retry_now: make them due at once, even if another process has just tried.

    Attributes:
        reason: why the last attempt of this process failed, or None.
    """

    def __init__(self, progress: Progress, retry_now: bool) -> None:
        self.reason: Exception | None = None
        self._progress = progress
        if retry_now:
            progress.retry_at = 0.0
        # Each later process tries what an earlier one deferred, and there may be many of them.
        self._pause = LONGEST_PAUSE if progress.deferred else FIRST_PAUSE

    def __bool__(self) -> bool:
        return bool(self._progress.deferred)

    def is_due(self) -> bool:
        """Whether it is time for the next attempt; also if the clock was set back."""
        return bool(self) and not 0 < self._progress.retry_at - time.time() <= LONGEST_PAUSE

    def add(self, position: int, reason: Exception) -> None:
        """Defer the artifact whose record begins at `position`."""
        if position not in self._progress.deferred:
            self._progress.deferred.append(position)
        self.reason = reason
        self._progress.retry_at = time.time() + self._pause

    def remove(self, position: int) -> None:
        """Drop the artifact whose record begins at `position`: it is stored, or MLflow will never take it."""
        if position in self._progress.deferred:
            self._progress.deferred.remove(position)

    def wait_longer(self) -> None:
        """Double the pause before the next attempt."""
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
