"""Many processes, one PostgreSQL database that none of them has made yet: see `writers`."""

import pytest
import sqlalchemy

from tests.tracking.writers import write_and_count


@pytest.mark.cluster
def test_eight_processes_write_fifty_runs_each_into_postgresql(postgresql, tmp_path):
    # A database of its own: Optuna and MLflow keep their schema's version in tables of one name.
    engine = sqlalchemy.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE DATABASE mlflow"))
    engine.dispose()
    write_and_count(postgresql.removesuffix("postgres") + "mlflow", tmp_path)
