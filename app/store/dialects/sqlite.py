"""SQLite: one private file, in WAL mode (https://sqlite.org/wal.html), for the workers of one machine."""

import logging
import os
import stat
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.store.dialects.kind import Kind

log = logging.getLogger(__name__)

# SQLITE_BUSY: another process writes; SQLITE_LOCKED: another connection of this process
# (https://sqlite.org/rescode.html).
_LOCKED = (5, 6)


def _open_engine(url: sa.URL, durable: bool) -> sa.Engine:
    if url.database:
        _create_private(Path(url.database))
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
        paramstyle="named",
        # SQLite waits in C: a gevent worker would stand still with all its streams. So it hardly ever does.
        connect_args={"timeout": 0.01},
    )
    sa.event.listen(engine, "connect", partial(_on_connect, durable=durable))
    return engine


def _create_private(path: Path) -> None:
    """The file exists and only its owner can read it, before anything is written into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        log.warning("other users of this machine may read the database file; chmod 600 it")


def _on_connect(dbapi: Any, _record: Any, *, durable: bool) -> None:
    cursor = dbapi.cursor()
    # Kept in the file; switching to it may fail at once where another process is just opening it.
    cursor.execute("PRAGMA journal_mode=WAL")
    # NORMAL in WAL mode: nothing is lost when a process is killed; a power cut may lose the last moment.
    cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    # What is deleted, or sealed since, does not stay readable in the file.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _is_passing(error: Exception, is_connecting: bool, is_lost: bool) -> bool:  # noqa: ARG001  # only the code counts
    # The extended codes (SQLITE_BUSY_SNAPSHOT …) hold the primary one in their last byte.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _LOCKED


SQLITE = Kind(
    open_engine=_open_engine,
    begin_exclusively="BEGIN IMMEDIATE",
    clock=None,
    storable=lambda values: values,
    may_be_away=False,
    is_passing=_is_passing,
    patience_s=10.0,
    pause_s=(0.002, 0.02),
)
