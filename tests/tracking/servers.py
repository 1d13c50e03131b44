"""A real MLflow server on loopback that can be stopped, killed and suspended."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.ports import free_ports

# Attempts to start the server, if another process takes its port first.
TRIES = 3


class Server:
    """`mlflow server` with its own SQLite database and artifacts under `folder`; always on the same port.

    Args:
        folder: where database, artifacts and log lie.
        ui_of: the database that `mlflow ui` is to show instead, as people start it.
    """

    def __init__(self, folder: Path, ui_of: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.command = ["ui", "--backend-store-uri", ui_of] if ui_of else ["server", *self._own()]
        self._choose_port()
        self.process: subprocess.Popen[bytes] | None = None

    def _choose_port(self) -> None:
        (self.port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert self.process is None or self.process.poll() is not None, "it runs already"
        is_first = self.process is None
        log = self.folder / "server.log"
        for _ in range(TRIES):
            begin = log.stat().st_size if log.exists() else 0
            self._launch()
            if self._answers():
                return
            said = log.read_bytes()[begin:].decode()
            assert "address already in use" in said.lower(), said[-2000:]
            if is_first:
                self._choose_port()
        raise AssertionError("its port is taken")

    def _launch(self) -> None:
        command = ["-m", "mlflow", *self.command, "--host", "127.0.0.1", "--port", str(self.port)]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )

    def _answers(self) -> bool:
        """Wait for its first answer; False where it ends before."""
        assert self.process is not None
        deadline = time.monotonic() + 120
        while self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).read()
                return True
            except OSError:
                assert time.monotonic() < deadline, "the server never answered"
                time.sleep(0.2)
        return False

    def _own(self) -> list[str]:
        """Database and artifacts of its own, and one worker, which starts sooner than four."""
        own = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        return [*own, "--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"]

    def send(self, number: int) -> None:
        """Send a signal to the server and its workers, by their own process group."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, if it runs, and wait for it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.send(signal.SIGCONT)
        self.send(number)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.process.wait()
