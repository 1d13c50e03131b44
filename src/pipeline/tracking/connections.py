"""Close the connections to databases that MLflow keeps open, since its clients have no method for it."""

import atexit
import os
import weakref

from sqlalchemy import Connection, Engine, event

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
os.register_at_fork(after_in_child=_engines.clear)  # a child must not close its parent's


@event.listens_for(Engine, "engine_connect")
def _remember(connection: Connection) -> None:
    _engines.add(connection.engine)


@atexit.register
def close_connections() -> None:
    """Close this process's idle connections to databases; what uses one later connects again."""
    for engine in list(_engines):
        engine.dispose()
