"""One training run in MLflow: what it logs goes to a spool, from which a thread sends it."""

import contextlib
import hashlib
import json
import logging
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lr_study.errors import describe_error
from lr_study.masking import mask_passwords
from pipeline.errors import RequestError, RunError
from pipeline.process import imports
from pipeline.tracking import environment, git
from pipeline.tracking.spool.background import BackgroundUploader
from pipeline.tracking.spool.spool import Record, Spool
from pipeline.tracking.target import TrackingTarget, warn_of_unused_variables

PARAMS_PER_RECORD = 100
# Seconds that `id` waits for MLflow to create the run.
ID_SECONDS = 20.0


class TrackedRun:
    """An open run. What is logged is written to a spool at once; a thread sends it to MLflow.

    Nothing here waits for MLflow, except `id` and `close`. Use it as a context manager: an exception closes the run as
    FAILED, an interruption as KILLED. Where MLflow takes no run until the user does something, logging raises
    RequestError.

    Args:
        parent: MLflow's id of the parent run.
        sweep: the name of the run's sweep, by which the parent is found if its id isn't known.
        find: a query for a run that several processes share, a sweep's parent. The first process creates it.
        quiet: log no warnings about MLflow.
        resumable: keep the spool if the run crashes, so that `tracking.spool.resume` finds it.

    Attributes:
        status: the tag `status` for a run whose block ends without an exception; set it before the block ends.
        history: by metric, its value at each step, as logged by this process.
        is_sent: whether MLflow has all of the run; known after `close`.
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
        source = {"mlflow.source.name": environment.command_line(), "mlflow.source.type": "LOCAL"}
        header: Record = {
            "store": target.label,
            "experiment": target.experiment,
            "name": name,
            "time": _now(),
            "tags": {key: mask_passwords(value) for key, value in {**source, **tags}.items()},
        }
        optional = {"parent": parent, "sweep": sweep, "find": find, "resumable": resumable or None}
        header |= {key: value for key, value in optional.items() if value is not None}
        self._open(target, Spool.create(target.spool, header), is_new=True, quiet=quiet)

    @classmethod
    def resumed(cls, target: TrackingTarget, spool: Spool) -> Self:
        """Open the run of a process that crashed."""
        run = cls.__new__(cls)
        run._open(target, spool, is_new=False, quiet=False)
        return run

    def _open(self, target: TrackingTarget, spool: Spool, is_new: bool, quiet: bool) -> None:
        if not quiet:
            warn_of_unused_variables()
        self.target = target
        self.spool = spool
        self.status = "complete"
        self.is_sent = False
        self._is_quiet = quiet
        self.history: dict[str, dict[int, float]] = {}
        before = () if is_new else (record for record, _ in spool.read() if "metrics" in record)
        self._logged_before = {(key, record["step"]) for record in before for key in record["metrics"]}
        self._uploader = BackgroundUploader(spool, target, is_new, quiet)

    @property
    def id(self) -> str | None:
        """MLflow's id of the run; None if MLflow can't be reached."""
        return self._uploader.run_id(ID_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close(self.status, "FINISHED")
            self.check_accepted()
        else:
            self.close_after(error)

    def close_after(self, error: BaseException) -> None:
        """Close the run that `error` has ended: as failed, with the reason; as interrupted if it is no Exception."""
        if isinstance(error, Exception):
            self.close("failed", "FAILED", describe_error(error))
        else:
            self.close("interrupted", "KILLED")

    def check_accepted(self) -> None:
        """Raise RequestError where MLflow is known to take no run until the user does something. Nothing waits for it.

        A sweep's trials go on: the sweep itself is refused, or says so at its end.
        """
        if self._uploader.refusal is not None and not self._is_quiet:
            raise RequestError(
                f"{self._uploader.refusal}\nThe run is recorded in {self.spool.path.parent}."
                f" Once that is done, this sends it: {self.target.sync_command}"
            )

    def log_params(self, params: Mapping[str, Any], if_new: bool = False) -> None:
        """Log flat parameters; with `if_new`, only if this run's process created the run in MLflow."""
        texts = [(key, mask_passwords("null" if value is None else str(value))) for key, value in params.items()]
        for start in range(0, len(texts), PARAMS_PER_RECORD):
            self._record({"params": dict(texts[start : start + PARAMS_PER_RECORD])}, if_new)

    def log_dataset(self, name: str, digest: str, source: str, examples: int) -> None:
        """Log the data set as MLflow's input."""
        self._record({"dataset": {"name": name, "digest": digest, "source": source, "examples": examples}})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics at `step`, the number of the evaluation from 1 on, with the current time.

        A resumed run does not log again what it logged before the crash.
        """
        for key, value in metrics.items():
            self.history.setdefault(key, {})[step] = float(value)
        new = {key: float(value) for key, value in metrics.items() if (key, step) not in self._logged_before}
        if new:
            self._record({"metrics": new, "time": _now(), "step": step})

    def log_text(self, text: str, path: str, if_new: bool = False) -> None:
        """Store `text`, with the passwords in its addresses masked, as the artifact `path`."""
        self._record({"text": mask_passwords(text), "path": path}, if_new)

    def log_file(self, file: Path, folder: str) -> None:
        """Store a copy of `file` in the artifact folder `folder`."""
        try:
            self._record({"file": self.spool.keep_file(file), "folder": folder})
        except OSError as error:
            self.spool.error = self.spool.error or error

    def log_model(self, model: Any, example: Any, output: Any) -> None:
        """Store a network as the MLflow model `model`, with signature and input example.

        It is saved as torch's exported graph, which holds no Python code and needs nothing of this project.

        Args:
            model: a torch module on the CPU, in evaluation mode.
            example: images, a NumPy array [n, channels, height, width] of float32.
            output: the network's output for them, [n, classes].
        """
        imports.wait()
        import mlflow.pytorch
        from mlflow.models import infer_signature

        folder = self.spool.files / "model"
        shutil.rmtree(folder, ignore_errors=True)  # of this run before it crashed
        logging.getLogger("mlflow.utils").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export and MLflow warn about their own code
            mlflow.pytorch.save_model(
                model,
                str(folder),
                signature=infer_signature(example, output),
                input_example=example,
                pip_requirements=["mlflow", "numpy", "torch"],
                serialization_format="pt2",
            )
        self._record({"file": self.spool.keep_file(folder), "folder": "model"})

    def log_environment(self, if_new: bool = False) -> None:
        """Store packages, machine, commit and the difference to it, as far as they can be found."""
        find_or = environment.find_or
        commit, difference = find_or((None, ""), "source", git.git_state)
        texts = {
            "environment/requirements.txt": find_or("", "packages", environment.installed_packages),
            "environment/machine.json": find_or("", "machine", lambda: json.dumps(environment.machine(), indent=2)),
            "source/git.diff": difference,
        }
        if commit:
            self._record({"tags": {"mlflow.source.git.commit": commit}}, if_new)
        for path, text in texts.items():
            if text:
                self.log_text(text, path, if_new)

    def close(self, status: str, mlflow_status: str, error: str = "") -> None:
        """Record how the run ended, and wait until it is sent; if MLflow doesn't answer, it is sent later.

        `error` says in a line why the run failed; it becomes the tag `error`.

        Raises:
            RunError: neither the disk nor MLflow took all of it.
        """
        if error:
            self.spool.append({"tags": {"error": mask_passwords(error)}})
        self.spool.append_end(status, mlflow_status)
        with contextlib.suppress(OSError):  # the uploader meets it too, and warns
            self.spool.sync()
        self.is_sent = self._uploader.finish()
        if not self.is_sent and not self.spool.is_on_disk:
            why = self.spool.error or "its files were deleted"
            raise RunError(
                f"Tracking was lost: {self.spool.path.parent} can't be written ({why}),"
                " and MLflow didn't take it either.\nMake room or choose another tracking.uri, and run it again."
            )

    def _record(self, record: Record, if_new: bool = False) -> None:
        self.check_accepted()
        self.spool.append(record | {"if_new": True} if if_new else record)


def config_digest(text: str) -> str:
    """Return the SHA-256 of a configuration's text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> int:
    return int(time.time() * 1000)
