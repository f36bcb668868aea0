"""The connection to the database: opening it, patience with it, transactions, its clock.

SQLAlchemy makes the statements and keeps the connections; they are run by the driver itself, which for statements as
small as ours takes half of the time. Must never know a table of ours, nor what is written into it.
"""

import logging
import random
import time
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler

from app.store.clock import Clock, steady
from app.store.dialects import PerDialect, Statement
from app.store.dialects.kind import Kind
from app.store.dialects.postgresql import POSTGRESQL
from app.store.dialects.sqlite import SQLITE
from app.store.errors import StoreError, StoreUnavailable, StoreUnusable

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = dict[str, Any]

# In a statement: the ``process_id`` of the Database that runs it.
ME: sa.BindParameter[str] = sa.bindparam("me")

_KINDS = {"sqlite": SQLITE, "postgresql": POSTGRESQL}

# The exception classes of every driver, the special ones first (https://peps.python.org/pep-0249/#exceptions).
_DRIVER_ERRORS = (
    "OperationalError",
    "IntegrityError",
    "ProgrammingError",
    "DataError",
    "InternalError",
    "NotSupportedError",
    "DatabaseError",
    "InterfaceError",
)


class Transaction:
    """Runs statements within one transaction. The columns of a row have the names and types of the database."""

    def __init__(self, connection: PoolProxiedConnection, statements: "_Statements") -> None:
        self._connection = connection
        self._statements = statements
        # Nobody may get this connection again: it may have half a transaction in it.
        self.is_spoilt = False

    def run(self, statement: Statement, **values: Any) -> int:
        """How many rows were written."""
        sql, parameters = self._statements.prepared(statement, values)
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(sql, parameters)
            return int(cursor.rowcount)

    def row(self, statement: Statement, **values: Any) -> Row | None:
        """The first row, or None."""
        rows = self.rows(statement, **values)
        return rows[0] if rows else None

    def rows(self, statement: Statement, **values: Any) -> list[Row]:
        sql, parameters = self._statements.prepared(statement, values)
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def execute(self, sql: str) -> None:
        """A statement in words that every database of ours understands."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(sql)


class Database:
    """One database, opened once per process. Safe for threads.

    A statement is built once, at the top of a module: its SQL is made at its first use and kept for ever. Its
    parameters are named by ``sqlalchemy.bindparam``. ``run``, ``row`` and ``rows`` are one transaction each, and are
    run again where the connection was lost before their result came: each must be safe to repeat.
    Opening raises StoreUnusable; later, StoreError says that the database fails.
    """

    def __init__(self, url: str, *, durable: bool = False) -> None:
        """``durable``: what is written has reached the disk, at some cost."""
        # What this process is called among those that share the database.
        self.process_id = uuid.uuid4().hex
        parsed = sa.make_url(url)
        self._kind = _KINDS[parsed.get_backend_name()]
        try:
            self._open(parsed, durable)
        except (OSError, SQLAlchemyError, StoreError) as e:
            raise self.unusable(e) from e

    def _open(self, parsed: sa.URL, durable: bool) -> None:
        self._engine = self._kind.open_engine(parsed, durable)
        # A module of PEP 249, whose errors have no common type.
        self._driver: Any = self._engine.dialect.loaded_dbapi
        self._statements = _Statements(self._engine.dialect, self._kind, self.process_id)
        self._away_since: float | None = None
        self._on_return: Callable[[Transaction, float], object] | None = None
        # All processes of a file go by this machine's clock, and it is set for all of them at once. Those of a server
        # are on several machines: where the clock of one is set, that must change nothing for what it shares.
        ours = time.time if self._kind.clock is None else steady
        self._clock = Clock(lambda: self.patiently(self._measure_clock), ours)

    def unusable(self, error: Exception) -> StoreUnusable:
        """The error as it is told to who starts the gateway."""
        what = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {_first_line(error)}"
        why = f"DATABASE_URL: the database cannot be opened ({what})"
        is_transient = isinstance(error, StoreError) and error.is_transient
        return StoreUnavailable(why) if is_transient else StoreUnusable(why)

    def close(self) -> None:
        self._engine.dispose()

    def run(self, statement: Statement, **values: Any) -> int:
        """How many rows were written."""
        return self.patiently(lambda tx: tx.run(statement, **values))

    def run_at_once(self, statement: Statement, **values: Any) -> int:
        """``run`` without patience: what cannot be done now fails now."""
        return self._once(lambda tx: tx.run(statement, **values))

    def row(self, statement: Statement, **values: Any) -> Row | None:
        """The first row, or None."""
        return self.patiently(lambda tx: tx.row(statement, **values))

    def rows(self, statement: Statement, **values: Any) -> list[Row]:
        return self.patiently(lambda tx: tx.rows(statement, **values))

    def exclusively(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` in one transaction that overlaps no other such transaction, of whatever process.

        ``work`` is run again where the database was locked or the connection was lost, also where it was lost so
        late that the first run may have been committed: it does nothing but read and write the transaction, and
        finds out by what it reads whether it is done already. An exception of its own undoes what it wrote.
        It must be short: everybody else waits.
        """
        return self.patiently(lambda tx: self._in_transaction(tx, work))

    def now(self) -> float:
        """Unix seconds by the clock that all machines share: the database's."""
        return self._clock.now()

    def first_on_return(self, work: Callable[[Transaction, float], object]) -> None:
        """``work`` is run where the database is back, before anything else of this process, with the Unix seconds
        since which it was away. It must be safe to repeat."""
        self._on_return = work

    def _measure_clock(self, tx: Transaction) -> float:
        """How far the database's clock is ahead of ours."""
        if self._kind.clock is None:
            return 0.0
        before = steady()
        (theirs,) = (tx.row(self._kind.clock) or {}).values()
        return float(theirs) - (before + steady()) / 2

    def _in_transaction(self, tx: Transaction, work: Callable[[Transaction], T]) -> T:
        try:
            tx.execute(self._kind.begin_exclusively)
        except self._driver.Error:
            # It may have got half way; where it did not, there is nothing to undo, which is an error too.
            with suppress(self._driver.Error):
                tx.execute("ROLLBACK")
            raise
        try:
            result = work(tx)
            tx.execute("COMMIT")
        except BaseException:
            try:
                tx.execute("ROLLBACK")
            except self._driver.Error:
                tx.is_spoilt = True
            raise
        return result

    def _once(self, work: Callable[[Transaction], T]) -> T:
        """``work`` on a connection. Raises StoreError."""
        try:
            connection = self._engine.raw_connection()
        except DBAPIError as e:
            # SQLAlchemy's own questions to a new connection failed.
            raise self._translated(e.orig, None) from e
        except self._driver.Error as e:
            raise self._translated(e, None) from e
        except SQLAlchemyError as e:
            # All connections are in use, and stayed so.
            name = type(e).__name__
            raise StoreError(f"{name}: {_first_line(e)}", driver_error=name) from e
        tx = Transaction(connection, self._statements)
        try:
            if (since := self._away_since) is not None and self._on_return is not None:
                self._on_return(tx, self.now() - (time.monotonic() - since))
            return work(tx)
        except self._driver.Error as e:
            raise self._translated(e, connection) from e
        except BaseException as e:
            # Torn away by something that is no error: nobody knows in the middle of what.
            tx.is_spoilt = tx.is_spoilt or not isinstance(e, Exception)
            raise
        finally:
            if tx.is_spoilt and connection.is_valid:
                connection.invalidate()
            connection.close()

    def _translated(self, error: Any, connection: PoolProxiedConnection | None) -> StoreError:
        """The StoreError for a driver's error. ``connection``: None if none could be opened.

        A connection that is lost is closed, and all idle ones with it: what ended one may have ended the others.
        """
        is_lost = connection is not None and self._engine.dialect.is_disconnect(
            error, connection.dbapi_connection, None
        )
        if is_lost and connection is not None:
            connection.invalidate(error)
            self._engine.dispose()
        name = next((name for name in _DRIVER_ERRORS if isinstance(error, getattr(self._driver, name))), "Error")
        return StoreError(
            f"{name}: {_first_line(error)}",
            driver_error=name,
            is_transient=self._kind.is_passing(error, connection is None, is_lost),
            is_unreachable=connection is None or is_lost,
            may_have_run=is_lost,
        )

    def patiently(self, work: Callable[[Transaction], T]) -> T:
        """Runs ``work`` on a connection, each statement in a transaction of its own; all of it again and again while
        the database is locked, or away and will be back. It must be safe to repeat."""
        deadline = time.monotonic() + self._kind.patience_s
        may_have_run = False
        while True:
            try:
                result = self._once(work)
            except StoreError as e:
                e.may_have_run = may_have_run = e.may_have_run or may_have_run
                if not e.is_transient:
                    raise
                self._note_absence(e)
                if time.monotonic() > deadline:
                    raise
            else:
                if self._away_since is not None:
                    self._note_return()
                return result
            time.sleep(random.uniform(*self._kind.pause_s))

    def _note_absence(self, error: StoreError) -> None:
        """Said once, and not by each of those who wait."""
        if self._kind.may_be_away and error.is_unreachable and self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("the database is away; requests wait for it (%s)", error)

    def _note_return(self) -> None:
        since, self._away_since = self._away_since, None
        if since is not None:
            log.warning("the database is back after %.1f s", time.monotonic() - since)


class _Statements:
    """The SQL of every statement that was ever run: making it costs several times as much as running it."""

    def __init__(self, dialect: sa.Dialect, kind: Kind, me: str) -> None:
        self._dialect = dialect
        self._kind = kind
        self._me = me
        self._made: dict[Statement, tuple[str, Row]] = {}

    def prepared(self, statement: Statement, values: Row) -> tuple[str, Row]:
        """The SQL and all values for it, those that the statement itself holds among them."""
        made = self._made.get(statement)
        if made is None:
            made = self._made[statement] = self._make(statement)
        sql, constants = made
        return sql, self._kind.storable({**constants, **values})

    def _make(self, statement: Statement) -> tuple[str, Row]:
        if isinstance(statement, PerDialect):
            statement = statement.made_for(self._dialect.name)
        compiled = statement.compile(dialect=self._dialect)
        assert isinstance(compiled, SQLCompiler)
        constants = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        if ME.key in compiled.binds:
            constants[ME.key] = self._me
        return str(compiled), constants


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
