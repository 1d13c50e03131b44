"""Artifacts that can't be stored now though MLflow answers: set aside, so that they hold up nothing behind them."""

import time

from pipeline.tracking.spool.record import Record

# Seconds until they are tried again: soon at first, for it may have been a hiccup; a missing permission lasts.
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 60.0


class DeferredArtifacts:
    """Which of a spool's artifacts were set aside.

    Args:
        done: what the spool knows of earlier sendings.
        insist: try them at once, whenever they were tried last.

    Attributes:
        positions: where their records begin.
        retry_at: when they are tried again, in seconds since the epoch.
        reason: why the last one failed in this process, or None.
    """

    def __init__(self, done: Record, insist: bool) -> None:
        self.positions: list[int] = list(done.get("aside", []))
        self.retry_at = 0.0 if insist else float(done.get("retry_at", 0))
        self.reason: Exception | None = None
        # What another process gave up is tried by each that comes after it, and there may be many.
        self._pause = LONGEST_PAUSE if self.positions else FIRST_PAUSE

    def __bool__(self) -> bool:
        return bool(self.positions)

    def is_due(self) -> bool:
        """Whether it is time to try them again; also where a clock was set back."""
        return bool(self.positions) and not 0 < self.retry_at - time.time() <= LONGEST_PAUSE

    def add(self, position: int, reason: Exception) -> None:
        """Set the artifact aside whose record begins at `position`."""
        if position not in self.positions:
            self.positions.append(position)
        self.reason = reason
        self.retry_at = time.time() + self._pause

    def remove(self, position: int) -> None:
        """It is stored, or will never be."""
        if position in self.positions:
            self.positions.remove(position)

    def wait_longer(self) -> None:
        """They were tried again: leave more time until the next attempt."""
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
