"""SQLite: one private file in WAL mode (https://sqlite.org/wal.html) for the workers of one machine."""

import errno
import logging
import os
import stat
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.store.dialects.checkpoints import Checkpoints, is_locked
from app.store.dialects.kind import DatabaseKind

log = logging.getLogger(__name__)

# From how many pages of 4 KB in the WAL on whoever commits copies them into the file. Checkpoints does it before.
_MOST_PAGES = 20_000
# SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN (the file beside the database that holds what is new;
# https://sqlite.org/rescode.html).
_UNWRITABLE = (8, 10, 13, 14)


def _open_engine(url: sa.URL, durable: bool) -> sa.Engine:
    if url.database:
        _create_private(Path(url.database))
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
        paramstyle="named",
        # SQLite waits for a lock in C, which would stop a gevent worker with all its streams.
        connect_args={"timeout": 0},
    )
    sa.event.listen(engine, "connect", partial(_on_connect, durable=durable))
    return engine


def _create_private(path: Path) -> None:
    """Creates the file and its folder, readable by their owner only, before anything is written into it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        # It is not opened: whoever closes a descriptor of a file drops all locks of the process on it (fcntl(2)). If
        # this process has the database open already, another process would then take itself for the last one that
        # uses it, and delete its WAL.
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        log.warning("database_file_not_private mode=%04o advice=%r", mode, "other users may read it; chmod 600 it")


def _on_connect(dbapi: Any, _record: Any, *, durable: bool) -> None:
    cursor = dbapi.cursor()
    # WAL mode is kept in the file. Switching to it may fail while another process opens the file; that is retried.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA wal_autocheckpoint={_MOST_PAGES}")
    # NORMAL in WAL mode: a killed process loses nothing; a power cut may lose the last commits.
    cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    # What is deleted or overwritten does not stay readable in the file.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _upkeep(url: sa.URL) -> Checkpoints | None:
    return Checkpoints(url.database) if url.database and url.database != ":memory:" else None


def _is_unwritable(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNWRITABLE


def _is_transient(error: Exception, is_connecting: bool, is_lost: bool) -> bool:  # noqa: ARG001  # only the code counts
    return is_locked(error)


SQLITE = DatabaseKind(
    open_engine=_open_engine,
    upkeep=_upkeep,
    begin="BEGIN IMMEDIATE",
    begin_exclusive="BEGIN IMMEDIATE",
    clock=None,
    bytes_type="BLOB",
    adapt_values=None,
    is_server=False,
    is_transient=_is_transient,
    serves_nobody=lambda _error: False,
    is_unwritable=_is_unwritable,
    retry_for_s=10.0,
    retry_every_s=(0.001, 0.02),
)
