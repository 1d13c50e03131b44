"""Read the text of a run's artifact."""

import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException


def read_artifact(client: MlflowClient, run_id: str, path: str) -> str:
    """Read an artifact's text; empty if there is no such artifact."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = Path(client.download_artifacts(run_id, path, folder))
        except (MlflowException, OSError):
            if path not in {file.path for file in client.list_artifacts(run_id, path.rpartition("/")[0])}:
                return ""
            raise
        return file.read_bytes().decode("utf-8", errors="replace")  # not read_text, which changes the ends of lines
