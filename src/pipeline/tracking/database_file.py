"""What is wrong with MLflow's SQLite file, found before a run starts, without the import of MLflow."""

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from pipeline.errors import RequestError
from pipeline.tracking.faults import deleted_experiment, lasting_fault, latest_revision, other_schema
from pipeline.tracking.target import sqlite_uri

# Seconds to wait for a writer. A file that is busy for longer is not checked: MLflow itself waits, and meets the fault.
BUSY_SECONDS = 1.0


def check_database(path: Path, experiment: str | None = None) -> None:
    """Refuse the file at `path` if MLflow can't use it, or if `experiment` was deleted in it. A new file is fine.

    MLflow itself would add its tables to another program's, and would change those of an older version while other
    processes read them.

    Raises:
        RequestError: says what is wrong, and what mends it.
    """
    if not path.is_file():
        return
    uri = sqlite_uri(path)
    address = f"file:{quote(os.fsencode(path))}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as database:
            tables = {str(name) for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                return
            if not tables >= {"alembic_version", "experiments", "runs"}:
                raise RequestError(
                    f"{path}: this database is another program's (tables: {', '.join(sorted(tables))[:60]})."
                    "\nMove it away, or choose another tracking.uri."
                )
            (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
            if latest_revision() not in (None, revision):
                raise other_schema(uri, revision)
            query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'deleted'"
            for (experiment_id,) in database.execute(query, [experiment]):
                raise deleted_experiment(uri, str(experiment), experiment_id)
    except sqlite3.OperationalError:
        return  # busy, or half a transaction of a process that died, which the next writer takes back
    except sqlite3.DatabaseError as error:
        if (fault := lasting_fault(error, uri)) is not None:
            raise fault from None
