"""The store by itself, on both databases: what a failure looks like to its users, and that the tables are
those that are declared."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.store import Store, StoreError, StoreUnavailable, StoreUnusable
from app.store.database import Database, Transaction
from app.store.tables import METADATA
from tests.running import BOTH_DATABASES, ON_POSTGRESQL, ROOT, PostgresDatabase, Running, wait_until
from tests.running import Database as AnyDatabase

_NO_SUCH_TABLE = sa.text("SELECT 1 FROM no_such_table")
_ONE = sa.text("SELECT 1 AS one")


@pytest.fixture
def fresh(running: Running, database: str) -> AnyDatabase:
    """An empty database of the kind that the test runs on."""
    return running.new_empty_database()


@pytest.fixture
def opened(fresh: AnyDatabase) -> Iterator[Database]:
    with closing(Database(fresh.url)) as opened:
        yield opened


@BOTH_DATABASES
def test_a_statement_that_fails_is_a_store_error_that_is_not_retried(opened: Database, database: str) -> None:
    with pytest.raises(StoreError) as caught:
        opened.row(_NO_SUCH_TABLE)
    error = caught.value
    # https://peps.python.org/pep-0249/#exceptions leaves the choice to the driver.
    assert error.driver_error == {"sqlite": "OperationalError", "postgresql": "ProgrammingError"}[database]
    assert str(error).startswith(f"{error.driver_error}: ") and "no_such_table" in str(error)
    assert (error.is_transient, error.is_unreachable, error.may_have_run) == (False, False, False)


@BOTH_DATABASES
def test_an_exception_of_the_work_leaves_the_store_as_it_is(opened: Database, database: str) -> None:
    empty: dict[str, int] = {}
    with pytest.raises(KeyError):
        opened.in_exclusive_transaction(lambda tx: empty["missing"])


def test_a_locked_file_is_a_transient_error(tmp_path: Path) -> None:
    with closing(Store(f"sqlite:///{tmp_path}/x.db")) as store, closing(sqlite3.connect(tmp_path / "x.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="OperationalError: database is locked") as caught:
            store.check_writable()
        assert (caught.value.is_transient, caught.value.may_have_run) == (True, False)


def test_a_second_store_of_a_process_leaves_the_locks_of_the_first(tmp_path: Path) -> None:
    """Otherwise another process that closes the database takes itself for the last one, and deletes the WAL."""
    url = f"sqlite:///{tmp_path}/gateway.db"
    with closing(Store(url)) as store:
        store.facts.set_once("one", "1")
        with closing(Store(url)):
            pass
        done = subprocess.run(
            [sys.executable, "-c", f"from app.store import Store; Store({url!r}).close()"],
            cwd=ROOT,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "gateway.db-wal").exists()
        store.facts.set_once("two", "2")
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as found:
        assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert found.execute("SELECT count(*) FROM facts WHERE name IN ('one', 'two')").fetchone() == (2,)


@ON_POSTGRESQL
def test_a_lost_connection_is_a_transient_error_of_work_that_may_have_run(
    opened: Database, fresh: AnyDatabase, database: str
) -> None:
    ours = "datname = current_database() AND pid <> pg_backend_pid()"
    fresh.run(" ".join(("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE", ours)))
    with pytest.raises(StoreError) as caught, opened.retrying_for(0):
        opened.row(_ONE)
    assert (caught.value.is_transient, caught.value.is_unreachable, caught.value.may_have_run) == (True, True, True)
    assert opened.row(_ONE) == {"one": 1}


@ON_POSTGRESQL
def test_no_connection_is_left_when_a_database_is_closed_while_it_is_used(
    opened: Database, fresh: AnyDatabase, database: str
) -> None:
    def work(tx: Transaction) -> None:
        opened.close()
        assert tx.row(_ONE) == {"one": 1}

    opened.with_retries(work)
    # A thread in the background that has not noticed it.
    assert opened.row(_ONE) == {"one": 1}
    assert isinstance(fresh, PostgresDatabase)
    wait_until("all are closed", lambda: fresh.count() == 0)


@ON_POSTGRESQL
def test_a_database_that_does_not_exist_is_unusable(fresh: AnyDatabase, database: str) -> None:
    with pytest.raises(StoreUnusable, match="does not exist") as caught:
        Database(fresh.url.replace(fresh.name, "no_such_database"))
    assert not isinstance(caught.value, StoreUnavailable)


def test_what_may_pass_makes_a_database_unavailable_and_anything_else_makes_it_unusable(tmp_path: Path) -> None:
    """Only an unavailable one is worth another start of the worker."""
    with closing(Database(f"sqlite:///{tmp_path}/x.db")) as opened:
        assert type(opened.unusable(StoreError("locked", is_transient=True))) is StoreUnavailable
        assert type(opened.unusable(StoreError("broken"))) is StoreUnusable


def test_a_file_of_something_else_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("these are notes, not a database\n" * 100)
    with pytest.raises(StoreUnusable, match=r"cannot be opened \(DatabaseError: file is not a database\)") as caught:
        Store(f"sqlite:///{tmp_path}/notes.txt")
    assert not isinstance(caught.value, StoreUnavailable)


def _schema(url: str) -> dict[str, Any]:
    """All tables of a database: columns with type, nullability and default; primary key; indexes."""
    engine = sa.create_engine(url)
    with closing(engine.connect()) as connection:
        inspector = sa.inspect(connection)
        found = {
            table: {
                "columns": {
                    column["name"]: (str(column["type"]), column["nullable"], column["default"])
                    for column in inspector.get_columns(table)
                },
                "primary key": inspector.get_pk_constraint(table)["constrained_columns"],
                "indexes": {
                    index["name"]: (index["column_names"], index["unique"]) for index in inspector.get_indexes(table)
                },
                "unique": inspector.get_unique_constraints(table),
                "foreign keys": inspector.get_foreign_keys(table),
            }
            for table in inspector.get_table_names()
        }
    engine.dispose()
    return found


@BOTH_DATABASES
def test_migrations_make_the_tables_that_are_declared(running: Running, fresh: AnyDatabase, database: str) -> None:
    Store(fresh.url).close()
    declared = running.new_empty_database()
    engine = sa.create_engine(declared.url)
    METADATA.create_all(engine)
    engine.dispose()
    assert _schema(fresh.url) == _schema(declared.url)
    assert set(_schema(fresh.url)) == set(METADATA.tables)
