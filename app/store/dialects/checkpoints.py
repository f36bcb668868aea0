"""Copies what is new in a SQLite database from its WAL into its file, in a native thread.

SQLite would do it at the end of a commit, when the WAL has 1,000 pages. It waits for the disk in C then: 10 to 30 ms
in which a gevent worker and all its streams stand still (https://sqlite.org/wal.html#ckpt).

Nobody writes meanwhile: SQLite before 3.51.3 may lose commits if a checkpoint begins at the moment in which a commit
begins at the start of the WAL again (https://sqlite.org/wal.html#walresetbug). Who wants to write finds the database
locked and tries again.
"""

import _thread
import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from app.concurrency.native_thread import in_native_thread

log = logging.getLogger(__name__)

# Some 5,000 pages: more seldom than SQLite would do it, because writers wait meanwhile.
_USES = 1000
# How long a checkpoint waits until nobody writes. Seconds.
_WAIT_S = 0.5
# How long the end of the process waits for one that runs. Seconds.
_CLOSE_WAIT_S = 1.0
# SQLITE_BUSY: another process writes. SQLITE_LOCKED: another connection of this process does
# (https://sqlite.org/rescode.html).
_LOCKED = (5, 6)


def is_locked(error: Exception) -> bool:
    """Whether a driver's error says that the same may succeed a moment later."""
    # Extended result codes (SQLITE_BUSY_SNAPSHOT …) have the primary code in their last byte.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _LOCKED


class Checkpoints:
    """Of one database in one process. Called after each use of it; after many of them it starts a thread.

    Never raises. A failure is logged, once until the next success. Nothing is lost by it: the data stays in the WAL.
    """

    def __init__(self, path: str) -> None:
        # It must not create the file again if the database has been deleted.
        self._uri = f"{Path(path).absolute().as_uri()}?mode=rw"
        self._uses = 0
        self._none_runs = threading.Event()
        self._none_runs.set()
        self._is_failing = False

    def __repr__(self) -> str:
        return f"<Checkpoints{'' if self._none_runs.is_set() else ', one runs'}>"

    def __call__(self) -> None:
        self._uses += 1
        if self._uses >= _USES and self._none_runs.is_set():
            self._uses = 0
            self._none_runs.clear()
            try:
                # Not threading.Thread: its start() waits until the thread runs, and under gevent others would run.
                _thread.start_new_thread(self._run, ())
            except RuntimeError as e:
                # No more threads are allowed, or the process ends.
                self._none_runs.set()
                self._note(e)

    def close(self) -> None:
        """Waits for a checkpoint that runs: SQLite removes the WAL with the last connection, and it has two."""
        self._none_runs.wait(_CLOSE_WAIT_S)

    def _run(self) -> None:
        try:
            self._note(in_native_thread(self._checkpoint))
        finally:
            self._none_runs.set()

    def _note(self, error: Exception | None) -> None:
        if error is not None and not self._is_failing:
            log.warning("checkpoint_failed error=%s", error)
        self._is_failing = error is not None

    def _checkpoint(self) -> Exception | None:
        """In a native thread. Where others write or read all the time, the next one tries it again."""
        try:
            with closing(self._connection(_WAIT_S)) as writer, closing(self._connection(0)) as copier:
                # It writes nothing; no other connection can.
                writer.execute("BEGIN IMMEDIATE")
                # It does not wait for readers: what they still need is copied by the next one.
                copier.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as e:
            return None if is_locked(e) else e
        return None

    def _connection(self, wait_s: float) -> sqlite3.Connection:
        return sqlite3.connect(self._uri, timeout=wait_s, isolation_level=None, uri=True)
