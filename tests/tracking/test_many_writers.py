"""Many processes write to one SQLite file: see `writers`. For PostgreSQL see tests/cluster."""

import pytest

from tests.tracking.writers import write_and_count


@pytest.mark.long
def test_eight_processes_write_fifty_runs_each_into_one_sqlite_file(tmp_path):
    write_and_count(f"sqlite:///{tmp_path}/mlruns/mlflow.db", tmp_path)
