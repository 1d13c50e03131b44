"""How much of a spool was sent, kept beside it so that another process can continue."""

import dataclasses
import json
import os
from dataclasses import dataclass, field

from pipeline.tracking.spool.spool import Spool


@dataclass
class Progress:
    """How much of a spool was sent."""

    run_id: str | None = None  # in MLflow; None before it is created
    position: int = 0  # where the first record begins that was not sent
    deferred: list[int] = field(default_factory=list)  # where the records begin of artifacts that could not be stored
    retry_at: float = 0.0  # when these are due again, in seconds since the epoch
    was_there: bool = False  # whether another spool's uploader had created the run

    @classmethod
    def load(cls, spool: Spool) -> "Progress":
        """Read the progress of `spool`."""
        try:
            saved = json.loads(spool.path.with_suffix(".sent").read_text(encoding="utf-8"))
            if "aside" in saved:  # as earlier versions named it
                saved["deferred"] = saved.pop("aside")
            return cls(**saved)
        except (OSError, ValueError, TypeError):
            return cls()

    def save(self, spool: Spool) -> None:
        """Write the progress of `spool`, without waiting for the disk: records that are sent twice count once."""
        sent = spool.path.with_suffix(".sent")
        arriving = sent.with_suffix(".arriving")
        # Positions in memory mean nothing to another process.
        on_disk = dataclasses.replace(
            self,
            position=min(self.position, spool.size),
            deferred=[position for position in self.deferred if position < spool.size],
        )
        try:
            arriving.write_text(json.dumps(dataclasses.asdict(on_disk)), encoding="utf-8")
            os.replace(arriving, sent)
        except OSError:
            arriving.unlink(missing_ok=True)

    def is_complete(self, spool: Spool) -> bool:
        """Whether all of `spool` was sent."""
        return spool.is_on_disk and self.position == spool.size and not self.deferred
