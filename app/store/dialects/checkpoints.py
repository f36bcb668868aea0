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
import time
from contextlib import closing
from pathlib import Path

from app.concurrency.native_thread import in_native_thread

log = logging.getLogger(__name__)

# A use that writes changes about five pages. More seldom than SQLite would do it, because writers wait meanwhile.
_USES = 1000
# How long a checkpoint waits until nobody writes. Seconds.
_WAIT_S = 0.5
# How long the end of the process waits for one that runs. Seconds.
_CLOSE_WAIT_S = 1.0
# SQLITE_BUSY and SQLITE_LOCKED (https://sqlite.org/rescode.html).
_LOCKED = (5, 6)


class Checkpoints:
    """Of one database in one process. Called after each use of it; after many of them it starts a thread.

    Never raises. A failure is logged, once until the next success. Nothing is lost by it: the data stays in the WAL.
    """

    def __init__(self, path: str) -> None:
        # It must not create the file again if the database has been deleted.
        self._uri = f"{Path(path).absolute().as_uri()}?mode=rw"
        self._uses = 0
        self._runs = False
        self._is_failing = False

    def __repr__(self) -> str:
        return f"<Checkpoints{', one runs' if self._runs else ''}>"

    def __call__(self) -> None:
        self._uses += 1
        if self._uses >= _USES and not self._runs:
            self._uses = 0
            self._runs = True
            try:
                # Not threading.Thread: its start() waits until the thread runs, and under gevent others would run.
                _thread.start_new_thread(self._run, ())
            except RuntimeError as e:
                # No more threads are allowed, or the process ends.
                self._runs = False
                self._note(e)

    def close(self) -> None:
        """Waits for a checkpoint that runs: the last connection that is closed removes the WAL, if it is the last."""
        ends_at = time.monotonic() + _CLOSE_WAIT_S
        while self._runs and time.monotonic() < ends_at:
            time.sleep(0.005)

    def _run(self) -> None:
        try:
            self._note(in_native_thread(self._checkpoint))
        finally:
            self._runs = False

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
            return None if getattr(e, "sqlite_errorcode", 0) & 0xFF in _LOCKED else e
        return None

    def _connection(self, wait_s: float) -> sqlite3.Connection:
        return sqlite3.connect(self._uri, timeout=wait_s, isolation_level=None, uri=True)
