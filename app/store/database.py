"""The connection to the database: opening it, patience with it, transactions, its clock.

Must never know a table of ours, nor what is written into it.
"""

import logging
import os
import random
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.sql.compiler import SQLCompiler

from app.store.dialects import PerDialect, Statement

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = dict[str, Any]

# How long a statement waits for other processes. Seconds.
_LOCKED_S = 10.0


class StoreUnusable(Exception):
    """The database cannot be opened, or was written by a newer gateway."""


class Transaction:
    """Runs statements within one transaction. The columns of a row have the names and types of the database."""

    def __init__(self, connection: sa.Connection, statements: "_Statements") -> None:
        self._connection = connection
        self._statements = statements

    def run(self, statement: Statement, **values: Any) -> int:
        """How many rows were written."""
        return int(self._execute(statement, values).rowcount)

    def row(self, statement: Statement, **values: Any) -> Row | None:
        """The first row, or None."""
        result = self._execute(statement, values)
        row = result.first()
        return None if row is None else dict(zip(result.keys(), row, strict=True))

    def rows(self, statement: Statement, **values: Any) -> list[Row]:
        result = self._execute(statement, values)
        names = result.keys()
        return [dict(zip(names, row, strict=True)) for row in result]

    def execute_ddl(self, sql: str) -> None:
        """For migrations: a statement in words that every database of ours understands."""
        self._connection.exec_driver_sql(sql)

    def _execute(self, statement: Statement, values: Row) -> sa.CursorResult[Any]:
        sql, constants = self._statements.prepared(statement)
        return self._connection.exec_driver_sql(sql, {**constants, **values})


class Database:
    """One database, opened once per process. Safe for threads.

    A statement is built once, at the top of a module: its SQL is made at its first use and kept for ever. Its
    parameters are named by ``sqlalchemy.bindparam``. ``run``, ``row`` and ``rows`` are one transaction each.
    Opening raises StoreUnusable; later, sqlalchemy.exc.SQLAlchemyError says that the database fails.
    """

    def __init__(self, url: str, *, durable: bool = False) -> None:
        """``durable``: what is written has reached the disk, at some cost."""
        try:
            self._open(url, durable)
        except (OSError, SQLAlchemyError) as e:
            raise unusable(e) from e

    def _open(self, url: str, durable: bool) -> None:
        path = sa.make_url(url).database
        if path:
            _create_private(Path(path))
        # Every statement is a transaction of its own unless one is begun in words.
        self._engine = sa.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            hide_parameters=True,
            paramstyle="named",
            connect_args={"timeout": 0.01},
        )
        self._statements = _Statements(self._engine.dialect)
        sa.event.listen(self._engine, "connect", partial(_on_sqlite_connect, durable=durable))
        # Kept in the file; switching to it may fail at once where another process is just opening it.
        self._patiently(lambda db: db.exec_driver_sql("PRAGMA journal_mode=WAL"))

    def close(self) -> None:
        self._engine.dispose()

    def run(self, statement: Statement, **values: Any) -> int:
        """How many rows were written."""
        return self._patiently(lambda db: Transaction(db, self._statements).run(statement, **values))

    def row(self, statement: Statement, **values: Any) -> Row | None:
        """The first row, or None."""
        return self._patiently(lambda db: Transaction(db, self._statements).row(statement, **values))

    def rows(self, statement: Statement, **values: Any) -> list[Row]:
        return self._patiently(lambda db: Transaction(db, self._statements).rows(statement, **values))

    def exclusively(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` in one transaction that overlaps no other such transaction, of whatever process.

        ``work`` is run again where the database was locked or the connection was lost, also where it was lost so
        late that the first run may have been committed: it does nothing but read and write the transaction, and
        finds out by what it reads whether it is done already. An exception of its own undoes what it wrote.
        It must be short: everybody else waits.
        """
        return self._patiently(lambda db: self._in_transaction(db, work))

    def now(self) -> float:
        """Unix seconds by the clock that all machines share: the database's."""
        return time.time()

    def _in_transaction(self, db: sa.Connection, work: Callable[[Transaction], T]) -> T:
        db.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            result = work(Transaction(db, self._statements))
            db.exec_driver_sql("COMMIT")
        except BaseException:
            try:
                db.exec_driver_sql("ROLLBACK")
            except SQLAlchemyError:
                # Nobody may get this connection with half a transaction in it.
                db.invalidate()
            raise
        return result

    def _patiently(self, work: Callable[[sa.Connection], T]) -> T:
        """``work`` on a connection, again and again while another process has the database locked.

        SQLite's own waiting would do, but it sleeps in C: a gevent worker would stand still with all its streams.
        """
        deadline = time.monotonic() + _LOCKED_S
        while True:
            try:
                with self._engine.connect() as db:
                    return work(db)
            except OperationalError as e:
                if "locked" not in str(e.orig) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.002, 0.02))


class _Statements:
    """The SQL of every statement that was ever run: making it costs several times as much as running it."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        self._made: dict[Statement, tuple[str, Row]] = {}

    def prepared(self, statement: Statement) -> tuple[str, Row]:
        """The SQL, and the values that the statement itself holds."""
        made = self._made.get(statement)
        if made is None:
            made = self._made[statement] = self._make(statement)
        return made

    def _make(self, statement: Statement) -> tuple[str, Row]:
        if isinstance(statement, PerDialect):
            statement = statement.by_dialect[self._dialect.name]
        compiled = statement.compile(dialect=self._dialect)
        assert isinstance(compiled, SQLCompiler)
        constants = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        return str(compiled), constants


def unusable(error: Exception) -> StoreUnusable:
    why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return StoreUnusable(f"DATABASE_URL: the database cannot be opened ({why})")


def _create_private(path: Path) -> None:
    """The file exists and only its owner can read it, before anything is written into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        log.warning("other users of this machine may read the database file; chmod 600 it")


def _on_sqlite_connect(dbapi: Any, _record: Any, *, durable: bool) -> None:
    cursor = dbapi.cursor()
    # NORMAL in WAL mode: nothing is lost when a process is killed; a power cut may lose the last moment.
    cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    cursor.close()
