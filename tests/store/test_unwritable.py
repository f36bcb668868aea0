"""A database that can be opened and read, and not written."""

import resource
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import DatabaseUnavailable
from app.store import Store, StoreError
from app.store.dialects.postgresql import POSTGRESQL
from tests.running import Running, Simulator, SqliteDatabase


def run(store: Store, sql: str) -> None:
    store.database.with_retries(lambda tx: tx.execute(sql))


def test_a_check_sees_it_by_writing(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/g.db")
    store.check_writable()
    run(store, "PRAGMA query_only = 1")
    works: list[Callable[[], object]] = [
        store.check_writable,
        lambda: store.accounts.add(["one"], time.time()),
        lambda: store.database.in_exclusive_transaction(lambda tx: tx.execute("DELETE FROM accounts")),
    ]
    for work in works:
        with pytest.raises(StoreError) as caught:
            work()
        assert caught.value.is_unwritable and not caught.value.is_transient
    run(store, "PRAGMA query_only = 0")
    store.check_writable()
    store.close()


@pytest.mark.parametrize("name", ["DiskFull", "ReadOnlySqlTransaction", "IoError"])
def test_postgresql_says_so_too(name: str) -> None:
    from psycopg import errors

    assert POSTGRESQL.is_unwritable(getattr(errors, name)())
    assert not POSTGRESQL.is_unwritable(errors.DeadlockDetected())


def test_it_has_a_code_of_its_own() -> None:
    error = DatabaseUnavailable.after("OperationalError", reached_upstream=False, is_unwritable=True)
    assert (error.status, error.code, error.reached_upstream) == (503, "database_not_writable", False)


def test_a_full_disk_is_a_503_and_no_traceback_until_there_is_room(running: Running, simulator: Simulator) -> None:
    """As a limit for the size of files, which a test can set and lift while the gateway runs."""
    with running.gateway(simulator.url) as gateway:
        assert gateway.say("hello").ok and gateway.get("/readyz").ok
        assert isinstance(gateway.database, SqliteDatabase)
        path = gateway.database.path
        full = Path(f"{path}-wal").stat().st_size
        assert gateway.process.log.stat().st_size < full / 2, "the log has room"
        workers = gateway.process.children()
        before = [resource.prlimit(pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY)) for pid in workers]
        for stream in (False, True):
            response = gateway.say("hello", stream=stream)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "database_not_writable")
            assert "Retry-After" in response.headers and "x-should-retry" not in response.headers
        ready = gateway.get("/readyz")
        assert ready.status_code == 503 and "cannot be written" in ready.json()["problems"][0]
        assert "database_failed error=" in gateway.log() and "Traceback" not in gateway.log()
        for pid, limit in zip(workers, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
        assert gateway.get("/readyz").ok and gateway.say("hello").ok


def test_a_file_that_another_process_writes_for_a_moment_is_ready(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        assert isinstance(gateway.database, SqliteDatabase)
        assert gateway.say("hello").ok
        with closing(sqlite3.connect(gateway.database.path, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            ends = threading.Timer(0.15, other.rollback)
            ends.start()
            ready = gateway.get("/readyz")
            ends.join()
        assert ready.status_code == 200, ready.text
