"""Copies what is new in a SQLite database from its WAL into its file, beside all other work.

Otherwise SQLite does it at the end of a commit, when the WAL has a certain length. It waits for the disk in C then:
10 to 30 ms in which a gevent worker and all its streams stand still (https://sqlite.org/wal.html#ckpt).
"""

import contextlib
import logging
import sqlite3
import threading
from pathlib import Path

from app.concurrency.native_thread import in_native_thread

log = logging.getLogger(__name__)

# A transaction that writes changes about five pages, and a SQLite of its own would begin after 1,000 pages.
_USES = 200
# While processes write all the time, PASSIVE never copies the very last pages, and the WAL grows. From so many pages
# on RESTART lets the next writer begin at the start of the WAL again.
_RESTART_PAGES = 4000
# How long RESTART waits for others. Nobody can write meanwhile. Seconds.
_RESTART_WAIT_S = 0.02


class Checkpoints:
    """Of one database in one process. Called after each use of it; after many of them it starts a thread.

    A failure is logged, once until the next success. Nothing is lost by it: the data stays in the WAL.
    """

    def __init__(self, path: str) -> None:
        self._path = path
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
            threading.Thread(target=self._run, name="checkpoint", daemon=True).start()

    def _run(self) -> None:
        try:
            error = in_native_thread(self._checkpoint)
        finally:
            self._runs = False
        if error is not None and not self._is_failing:
            log.warning("checkpoint_failed error=%s", error)
        self._is_failing = error is not None

    def _checkpoint(self) -> Exception | None:
        """In a native thread. PASSIVE waits for nobody, and nobody for it: readers and writers go on."""
        # It must not create the file again if the database has been deleted.
        uri = f"{Path(self._path).absolute().as_uri()}?mode=rw"
        try:
            with contextlib.closing(sqlite3.connect(uri, timeout=_RESTART_WAIT_S, uri=True)) as connection:
                _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if pages > _RESTART_PAGES:
                    connection.execute("PRAGMA wal_checkpoint(RESTART)")
        except sqlite3.Error as e:
            return e
        return None
