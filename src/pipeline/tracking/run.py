"""One training, one MLflow run."""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lr_study.masking import mask_passwords
from pipeline.errors import RunError
from pipeline.tracking import environment, git
from pipeline.tracking.spool.background import BackgroundUploader
from pipeline.tracking.spool.record import Record, Spool
from pipeline.tracking.target import TrackingTarget

PARAMS_PER_RECORD = 100
# Seconds that MLflow is given to name a run, where its id is asked for.
ID_SECONDS = 20.0


class TrackedRun:
    """An open run: what is logged is written to a spool at once and sent to MLflow from the side.

    Nothing here waits for MLflow, save `id` and the end. Use it as a context manager. An exception closes it as
    FAILED, an interruption as KILLED.

    Args:
        target: tracking URI and experiment.
        name: what MLflow shows.
        tags: more tags.
        parent: MLflow's id of the run that it belongs to.
        sweep: name of the sweep that it belongs to, where the parent's id isn't known.
        find: query for what is one run in MLflow however many processes open it; it is made where there is none.
        quiet: say nothing where MLflow is away.
        resumable: keep the record of a run that does not end, so that `tracking.spool.resume` finds it.

    Attributes:
        status: the tag that says how the training itself ended; to be set before the block ends.
        history: each metric that was logged by this process, at each step.
        is_sent: whether MLflow has all of it; known once it is closed.
    """

    def __init__(
        self,
        target: TrackingTarget,
        name: str,
        tags: Mapping[str, str],
        *,
        parent: str | None = None,
        sweep: str | None = None,
        find: str | None = None,
        quiet: bool = False,
        resumable: bool = False,
    ) -> None:
        own = {"mlflow.source.name": environment.command_line(), "mlflow.source.type": "LOCAL"}
        header: Record = {
            "store": target.label,
            "experiment": target.experiment,
            "name": name,
            "time": _now(),
            "tags": {key: mask_passwords(value) for key, value in {**own, **tags}.items()},
        }
        optional = {"parent": parent, "sweep": sweep, "find": find}
        header |= {key: value for key, value in optional.items() if value is not None}
        if resumable:
            header["resumable"] = True
        self._open(target, Spool.create(target.spool, header), is_new=True, quiet=quiet)

    def _open(self, target: TrackingTarget, spool: Spool, is_new: bool, quiet: bool) -> None:
        self.target = target
        self.spool = spool
        self.status = "complete"
        self.is_sent = False
        self.history: dict[str, dict[int, float]] = {}
        before = () if is_new else (record for record, _ in spool.read() if "metrics" in record)
        self._logged_before = {(key, record["step"]) for record in before for key in record["metrics"]}
        self._courier = BackgroundUploader(spool, target, is_new, quiet)

    @classmethod
    def resumed(cls, target: TrackingTarget, spool: Spool) -> Self:
        """Go on with the run of a process that died."""
        run = cls.__new__(cls)
        run._open(target, spool, is_new=False, quiet=False)
        return run

    @property
    def id(self) -> str | None:
        """MLflow's id of the run; None while MLflow can't be reached."""
        return self._courier.run_id(ID_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close(self.status, "FINISHED")
        elif issubclass(kind, Exception):
            self.close("failed", "FAILED")
        else:
            self.close("interrupted", "KILLED")

    def log_params(self, params: Mapping[str, Any], if_new: bool = False) -> None:
        """Log flat parameters. `if_new`: not where another process made the run."""
        texts = [(key, mask_passwords("null" if value is None else str(value))) for key, value in params.items()]
        for start in range(0, len(texts), PARAMS_PER_RECORD):
            self._record({"params": dict(texts[start : start + PARAMS_PER_RECORD])}, if_new)

    def log_dataset(self, name: str, digest: str, source: str, examples: int) -> None:
        """Record the data set as MLflow's own input."""
        self._record({"dataset": {"name": name, "digest": digest, "source": source, "examples": examples}})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics at `step` (the evaluation, counted from 1), with the time that it is now.

        What the run logged before it was cut off is not logged again.
        """
        for key, value in metrics.items():
            self.history.setdefault(key, {})[step] = float(value)
        new = {key: float(value) for key, value in metrics.items() if (key, step) not in self._logged_before}
        if new:
            self._record({"metrics": new, "time": _now(), "step": step})

    def log_text(self, text: str, path: str, if_new: bool = False) -> None:
        """Store `text`, passwords of addresses in it masked, as the artifact `path`."""
        self._record({"text": mask_passwords(text), "path": path}, if_new)

    def log_file(self, file: Path, folder: str) -> None:
        """Store a copy of `file` in the artifact folder `folder`."""
        name = file.name
        try:
            self._record({"file": self.spool.keep_file(file, name), "folder": folder})
        except OSError as error:
            self.spool.error = self.spool.error or error

    def log_model(self, model: Any, example: Any, output: Any) -> None:
        """Store a network as the MLflow model `model`; see `pipeline.tracking.model.save_model`."""
        from pipeline.tracking.model import save_model

        folder = self.spool.files / "model"
        shutil.rmtree(folder, ignore_errors=True)  # of this run before it was cut off
        save_model(model, example, output, folder)
        self._record({"file": self.spool.keep_file(folder, "model"), "folder": "model"})

    def log_environment(self, if_new: bool = False) -> None:
        """Store packages, machine, commit and, where the tree was dirty, its difference; what is known of them."""
        found_or = environment.found_or
        packages = found_or("", "packages", environment.installed_packages)
        machine = found_or({}, "machine", environment.machine)
        commit, difference = found_or((None, ""), "source", git.git_state)
        if packages:
            self.log_text(packages, "environment/requirements.txt", if_new)
        if machine:
            self.log_text(json.dumps(machine, indent=2), "environment/machine.json", if_new)
        if commit:
            self._record({"tags": {"mlflow.source.git.commit": commit}}, if_new)
        if difference:
            self.log_text(difference, "source/git.diff", if_new)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._record({"tags": {key: mask_passwords(value) for key, value in tags.items()}})

    def close(self, status: str, mlflow_status: str) -> None:
        """Record how the run ended, and wait until it is sent, unless MLflow is away: then it is sent later.

        Raises:
            RunError: neither the disk nor MLflow took all of it.
        """
        self.spool.append_end(status, mlflow_status)
        with contextlib.suppress(OSError):  # the courier meets it, too, and says so
            self.spool.sync()
        self.is_sent = self._courier.finish()
        if not self.is_sent and not self.spool.is_on_disk:
            raise RunError(
                f"Tracking was lost: {self.spool.path.parent} can't be written ({self.spool.error})"
                " and MLflow took it neither.\nMake room or choose another tracking.uri, and run it again."
            )

    def _record(self, record: Record, if_new: bool = False) -> None:
        self.spool.append(record | {"if_new": True} if if_new else record)


def config_digest(text: str) -> str:
    """SHA-256 of a configuration as it was stored, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> int:
    return int(time.time() * 1000)
