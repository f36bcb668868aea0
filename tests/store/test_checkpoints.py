"""What is new in a SQLite database comes into its file, and nobody waits for the disk meanwhile."""

import _thread
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from app.store import Store
from app.store.dialects.checkpoints import Checkpoints
from tests.running.processes import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "g ü%.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{str(path).replace('%', '%25')}")
    yield store
    store.close()


def write(store: Store, times: int = 1100) -> None:
    for number in range(times):
        store.facts.put("x", f"{number}" + "x" * 4000, float(number))


def in_the_file(path: Path, copy: Path) -> str:
    """What the file says without its WAL."""
    copy.write_bytes(path.read_bytes())
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(copy)) as connection:
        (value,) = connection.execute("SELECT value FROM kept WHERE name = 'x'").fetchone() or ("",)
        return str(value)
    return ""


def write_until_it_is_in_the_file(store: Store, path: Path, copy: Path) -> None:
    def is_in_the_file() -> bool:
        store.facts.put("x", "after it", 1.0)
        return in_the_file(path, copy) == "after it"

    for _ in range(1000):
        store.facts.put("x", "after it", 1.0)
    wait_until("it is in the file", is_in_the_file)


def test_after_many_uses_what_is_new_is_in_the_file(store: Store, path: Path, tmp_path: Path) -> None:
    write(store, 20)
    assert in_the_file(path, tmp_path / "copy.db") == ""
    write(store)

    def is_in_the_file() -> bool:
        # A checkpoint that found the database locked for long is tried again after as many uses.
        write(store, 100)
        return in_the_file(path, tmp_path / "copy.db") != ""

    wait_until("it is in the file", is_in_the_file)


def test_the_wal_does_not_grow_while_several_write_all_the_time(store: Store, path: Path) -> None:
    with closing(Store(f"sqlite:///{str(path).replace('%', '%25')}")) as other:
        threads = [threading.Thread(target=write, args=(one, 12_000)) for one in (store, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # They write more than 20,000 pages of 4 KB.
    assert Path(f"{path}-wal").stat().st_size < 50_000_000


def test_who_reads_for_long_ends_no_write_and_the_rest_is_copied_later(
    store: Store, path: Path, tmp_path: Path
) -> None:
    write(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        before = reader.execute("SELECT value FROM kept WHERE name = 'x'").fetchone()
        write(store, 3000)
        assert reader.execute("SELECT value FROM kept WHERE name = 'x'").fetchone() == before
    write_until_it_is_in_the_file(store, path, tmp_path / "copy.db")


def test_nobody_writes_while_it_copies(store: Store, path: Path, tmp_path: Path) -> None:
    """A commit at this moment could be lost with SQLite before 3.51.3. So it waits until nobody writes."""
    write(store, 20)
    checkpoint = Checkpoints(str(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        for _ in range(1000):
            checkpoint()
        wait_until("it gives up", lambda: "one runs" not in repr(checkpoint))
        writer.execute("ROLLBACK")
        assert in_the_file(path, tmp_path / "copy.db") == ""


@pytest.mark.parametrize("attempt", range(5))
def test_a_store_that_is_closed_leaves_no_wal(store: Store, path: Path, attempt: int) -> None:
    """Also if the last use of it starts a checkpoint. Whoever copies the file alone then copies everything."""
    while "one runs" not in repr(store.database._upkeep):
        store.facts.put("x", f"last {attempt}", 1.0)
    store.close()
    assert not Path(f"{path}-wal").exists()


def test_no_thread_for_it_is_no_failure_of_the_write(
    store: Store, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a machine that allows no more threads: here none has room for its stack. One line for each time."""
    for _ in range(2):
        before = _thread.stack_size(1 << 47)
        try:
            write(store, 2500)
        finally:
            _thread.stack_size(before)
        write_until_it_is_in_the_file(store, path, tmp_path / "copy.db")
    assert [record.message for record in caplog.records] == ["checkpoint_failed error=can't start new thread"] * 2


def test_a_database_that_was_deleted_is_not_created_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = Checkpoints(str(path))
    for _ in range(3):
        for _ in range(1000):
            checkpoint()
        wait_until("it has ended", lambda: "one runs" not in repr(checkpoint))
    assert not path.exists()
    assert [record.message for record in caplog.records] == ["checkpoint_failed error=unable to open database file"]


def test_under_gevent_others_go_on() -> None:
    """The work waits for a lock that only the event loop can release."""
    code = """
from gevent import monkey, sleep, spawn
monkey.patch_all()
from app.concurrency.native_thread import in_native_thread
lock = monkey.get_original("_thread", "allocate_lock")()
lock.acquire()
def release():
    sleep(0.01)
    lock.release()
spawn(release)
print(in_native_thread(lambda: lock.acquire(True, 30)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "True"
