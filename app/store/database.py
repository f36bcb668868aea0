"""The connection to the database: opening it, retries, transactions, its clock, and the translation of its errors.

SQLAlchemy builds the statements and pools the connections. The statements are then executed by the driver (DB-API)
itself, which halves the time of statements as small as ours: a lease and its end take 119 µs instead of 245
(docs/performance.md). The price: values come back as the driver gives them, so SQLite's booleans are integers. Knows
no table.
"""

import logging
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler

from app.store.clock import Clock, steady
from app.store.dialects import PerDialect, Statement
from app.store.dialects.kind import DatabaseKind
from app.store.dialects.postgresql import POSTGRESQL
from app.store.dialects.sqlite import SQLITE
from app.store.errors import StoreError, StoreUnavailable, StoreUnusable

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = dict[str, Any]

# In a statement: the ``process_id`` of the Database that executes it.
OWN_PROCESS_ID: sa.BindParameter[str] = sa.bindparam("own_process_id")

# For how long the work of this thread is retried, in seconds. None: as long as the kind of database says.
_retry_for_s: ContextVar[float | None] = ContextVar("retry_for_s", default=None)

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
    """Executes statements on one connection. The columns of a row have the names and types of the database."""

    def __init__(self, statements: "_Statements", connection: PoolProxiedConnection) -> None:
        self._statements = statements
        # A transaction may still be open on the connection, so it must not go back to the pool.
        self.is_tainted = False
        assert connection.dbapi_connection is not None, "it was just taken from the pool"
        # The driver's own: the pool's connection passes each call on. One for all statements.
        self._cursor = connection.dbapi_connection.cursor()

    def run(self, statement: Statement, **values: Any) -> int:
        """The number of rows that were written."""
        self._cursor.execute(*self._statements.prepared(statement, values))
        return int(self._cursor.rowcount)

    def run_many(self, statement: Statement, rows: Sequence[Row]) -> None:
        """Executes the statement once for the values of each row."""
        if rows:
            prepared = [self._statements.prepared(statement, values) for values in rows]
            self._cursor.executemany(prepared[0][0], [parameters for _, parameters in prepared])

    def row(self, statement: Statement, **values: Any) -> Row | None:
        """The first row, or None."""
        rows = self.rows(statement, **values)
        return rows[0] if rows else None

    def rows(self, statement: Statement, **values: Any) -> list[Row]:
        self._cursor.execute(*self._statements.prepared(statement, values))
        names = self._statements.columns.get(statement)
        if names is None:
            names = self._statements.columns[statement] = [column[0] for column in self._cursor.description]
        return [dict(zip(names, row, strict=True)) for row in self._cursor.fetchall()]

    def execute(self, sql: str) -> None:
        """A statement in SQL that SQLite and PostgreSQL both understand."""
        self._cursor.execute(sql)


class Database:
    """One database, opened once per process. Safe for threads.

    A statement is built once, at the top of a module: its SQL is compiled at its first use and kept for ever. Its
    parameters are named with ``sqlalchemy.bindparam``.

    ``run``, ``row`` and ``rows`` are one transaction each. They are executed again if the connection was lost before
    their result came, so each statement must be safe to repeat.

    Opening raises StoreUnusable. All other methods raise StoreError if the database fails.
    """

    def __init__(self, url: str, *, durable: bool = False) -> None:
        """``durable``: a commit returns only when the data is on the disk, which costs time."""
        # The name of this process among those that share the database.
        self.process_id = uuid.uuid4().hex
        parsed = sa.make_url(url)
        self._kind = _KINDS[parsed.get_backend_name()]
        try:
            self._open(parsed, durable)
        except (OSError, SQLAlchemyError, StoreError) as e:
            raise self.unusable(e) from e

    def _open(self, parsed: sa.URL, durable: bool) -> None:
        self._engine = self._kind.open_engine(parsed, durable)
        self._upkeep = self._kind.upkeep(parsed)
        # A module of PEP 249. Its exceptions have no base class that all drivers share.
        self._driver: Any = self._engine.dialect.loaded_dbapi
        self._statements = _Statements(self._engine.dialect, self._kind, self.process_id)
        self._is_closed = False
        # A connection that was given back, for the next use: the pool takes as long as a small statement.
        self._at_hand: list[tuple[PoolProxiedConnection, Transaction]] = []
        # One entry for each use that waits for the pool. It is woken by a connection that comes back to the pool.
        self._waiting: list[None] = []
        self._unavailable_since: float | None = None
        # All processes that share a SQLite file use the clock of this machine, so when it is set, it is set for all
        # of them at once. Processes that share a server run on several machines: when the clock of one is set, that
        # must not change what it shares with the others.
        local_clock = time.time if self._kind.clock is None else steady
        self._clock = Clock(lambda: self.with_retries(self._measure_offset), local_clock)

    def unusable(self, error: Exception) -> StoreUnusable:
        """The exception for whoever starts the gateway, with what to look at."""
        what = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {_first_line(error)}"
        message = f"DATABASE_URL: the database cannot be opened ({what})"
        is_transient = isinstance(error, StoreError) and error.is_transient
        return StoreUnavailable(message) if is_transient else StoreUnusable(message)

    @property
    def is_server(self) -> bool:
        """Whether it is on a server, which others may administer."""
        return self._kind.is_server

    @property
    def bytes_type(self) -> str:
        """The name of its type for bytes."""
        return self._kind.bytes_type

    def close(self) -> None:
        """Closes all connections; one that is in use, or that a thread still opens, after its use."""
        self._is_closed = True
        if self._upkeep is not None:
            self._upkeep.close()
        self._close_idle()

    def _close_idle(self) -> None:
        # Another thread may take the last one.
        with suppress(IndexError):
            while True:
                self._at_hand.pop()[0].invalidate()
        self._engine.dispose()

    def run(self, statement: Statement, **values: Any) -> int:
        """The number of rows that were written."""
        return self.with_retries(lambda tx: tx.run(statement, **values))

    def row(self, statement: Statement, **values: Any) -> Row | None:
        """The first row, or None."""
        return self.with_retries(lambda tx: tx.row(statement, **values))

    def rows(self, statement: Statement, **values: Any) -> list[Row]:
        return self.with_retries(lambda tx: tx.rows(statement, **values))

    def in_exclusive_transaction(self, work: Callable[[Transaction], T]) -> T:
        """Calls ``work`` in a transaction that overlaps no other exclusive transaction of any process.

        ``work`` is called again if the database was locked or the connection was lost. The connection may be lost so
        late that the first call was committed: so ``work`` must only read and write the transaction, and must find
        out by reading whether it is done already. If it raises, what it wrote is rolled back. It must be short,
        because all other processes wait meanwhile.
        """
        return self.with_retries(lambda tx: self._in_transaction(tx, work, self._kind.begin_exclusive))

    def in_transaction(self, work: Callable[[Transaction], T]) -> T:
        """The same without keeping others out of their exclusive transactions: for what no other process writes, and
        for additions to sums. These must come in the order of their keys, or two processes may wait for each other.
        """
        return self.with_retries(lambda tx: self._in_transaction(tx, work, self._kind.begin))

    def with_retries(self, work: Callable[[Transaction], T]) -> T:
        """Calls ``work`` with a connection on which each statement is a transaction of its own.

        ``work`` is called again while the database is locked or unavailable, for as long as its kind says. It must
        be safe to repeat.
        """
        retry_for_s = _retry_for_s.get()
        deadline = time.monotonic() + (self._kind.retry_for_s if retry_for_s is None else retry_for_s)
        may_have_run = False
        pause_s, longest_s = self._kind.retry_every_s
        while True:
            try:
                result = self._try_once(work)
            except StoreError as e:
                e.may_have_run = may_have_run = e.may_have_run or may_have_run
                if not e.is_transient:
                    raise
                self._note_unavailable(e)
                if time.monotonic() > deadline:
                    raise
            else:
                if self._unavailable_since is not None:
                    self._note_available()
                return result
            time.sleep(random.uniform(0.5, 1.0) * pause_s)
            pause_s = min(2 * pause_s, longest_s)

    @staticmethod
    @contextmanager
    def retrying_for(seconds: float) -> Iterator[None]:
        """What this thread does meanwhile is retried for so long only. 0: what cannot be done now fails now."""
        before = _retry_for_s.set(seconds)
        try:
            yield
        finally:
            _retry_for_s.reset(before)

    def now(self) -> float:
        """Unix seconds by the clock that all machines share: the database's."""
        return self._clock.now()

    def _measure_offset(self, tx: Transaction) -> float:
        """How many seconds the database's clock is ahead of ours."""
        if self._kind.clock is None:
            return 0.0
        before = steady()
        (theirs,) = (tx.row(self._kind.clock) or {}).values()
        return float(theirs) - (before + steady()) / 2

    def _in_transaction(self, tx: Transaction, work: Callable[[Transaction], T], begin: str) -> T:
        try:
            tx.execute(begin)
        except self._driver.Error:
            # The transaction may have been opened half way. If it was not, the rollback fails, too.
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
                tx.is_tainted = True
            raise
        return result

    def _try_once(self, work: Callable[[Transaction], T]) -> T:
        """Calls ``work`` with a connection. Raises StoreError."""
        pool = self._engine.pool
        try:
            connection, tx = self._connection()
        except DBAPIError as e:
            # SQLAlchemy's own queries on a new connection failed.
            raise self._translated(e.orig, None) from e
        except self._driver.Error as e:
            raise self._translated(e, None) from e
        except SQLAlchemyError as e:
            # All connections of the pool were in use for too long.
            name = type(e).__name__
            raise StoreError(f"{name}: {_first_line(e)}", driver_error=name, is_transient=True) from e
        try:
            return work(tx)
        except self._driver.Error as e:
            raise self._translated(e, connection) from e
        except BaseException as e:
            # Interrupted at an unknown point, for example by the end of a greenlet.
            tx.is_tainted = tx.is_tainted or not isinstance(e, Exception)
            raise
        finally:
            # ``dispose`` puts a new pool in the place of the old one, and does not close what is in use.
            is_last_use = tx.is_tainted or self._is_closed or self._engine.pool is not pool
            if is_last_use and connection.is_valid:
                connection.invalidate()
            if is_last_use or self._at_hand or self._waiting:
                connection.close()
            else:
                self._at_hand.append((connection, tx))
            if self._upkeep is not None:
                self._upkeep()

    def _connection(self) -> tuple[PoolProxiedConnection, Transaction]:
        """One to use now. Raises exceptions of SQLAlchemy and of the driver."""
        try:
            return self._at_hand.pop()
        except IndexError:
            self._waiting.append(None)
        try:
            connection = self._engine.raw_connection()
        finally:
            self._waiting.pop()
        try:
            return connection, Transaction(self._statements, connection)
        except BaseException:
            connection.invalidate()
            raise

    def _translated(self, error: Any, connection: PoolProxiedConnection | None) -> StoreError:
        """The StoreError for a driver's error. ``connection``: None if none could be opened.

        A lost connection is closed, and all idle ones with it: whatever ended it may have ended them, too.
        """
        is_lost = connection is not None and self._engine.dialect.is_disconnect(
            error, connection.dbapi_connection, None
        )
        if is_lost and connection is not None:
            connection.invalidate(error)
            self._close_idle()
        name = next((name for name in _DRIVER_ERRORS if isinstance(error, getattr(self._driver, name))), "Error")
        return StoreError(
            f"{name}: {_first_line(error)}",
            driver_error=name,
            is_transient=self._kind.is_transient(error, connection is None, is_lost),
            is_unreachable=connection is None or is_lost,
            serves_nobody=self._kind.serves_nobody(error),
            is_unwritable=self._kind.is_unwritable(error),
            may_have_run=is_lost,
        )

    def _note_unavailable(self, error: StoreError) -> None:
        """Logs the first failure only, and not one per waiting request."""
        if self._kind.is_server and error.is_unreachable and self._unavailable_since is None:
            self._unavailable_since = time.monotonic()
            log.warning("database_unavailable error=%s", error)

    def _note_available(self) -> None:
        since, self._unavailable_since = self._unavailable_since, None
        if since is not None:
            log.warning("database_available after_s=%.1f", time.monotonic() - since)


class _Statements:
    """The SQL of each statement that was ever executed: compiling it costs several times as much as executing it."""

    def __init__(self, dialect: sa.Dialect, kind: DatabaseKind, process_id: str) -> None:
        self._dialect = dialect
        self._kind = kind
        self._process_id = process_id
        self._compiled: dict[Statement, tuple[str, Row]] = {}
        # The names of the columns that a statement reads. psycopg takes as long for them as for the rows.
        self.columns: dict[Statement, list[str]] = {}

    def prepared(self, statement: Statement, values: Row) -> tuple[str, Row]:
        """The SQL, and all values for it, including the constants of the statement itself."""
        compiled = self._compiled.get(statement)
        if compiled is None:
            compiled = self._compiled[statement] = self._compile(statement)
        sql, constants = compiled
        values = {**constants, **values}
        return sql, values if self._kind.adapt_values is None else self._kind.adapt_values(values)

    def _compile(self, statement: Statement) -> tuple[str, Row]:
        sql, constants = compile_statement(statement, self._dialect)
        if OWN_PROCESS_ID.key in constants:
            constants = {**constants, OWN_PROCESS_ID.key: self._process_id}
        return sql, constants


# By the name of the dialect. Another database of the same process compiles nothing again, and neither does a process
# that is forked.
_compiled: dict[tuple[str, Statement], tuple[str, Row]] = {}


def compile_statement(statement: Statement, dialect: sa.Dialect) -> tuple[str, Row]:
    """The SQL, and the constants of the statement itself. OWN_PROCESS_ID is None there."""
    key = (dialect.name, statement)
    if key not in _compiled:
        built = statement.build_for(dialect.name) if isinstance(statement, PerDialect) else statement
        compiler = built.compile(dialect=dialect)
        assert isinstance(compiler, SQLCompiler)
        binds = compiler.binds.items()
        constants = {name: bind.value for name, bind in binds if not bind.required or name == OWN_PROCESS_ID.key}
        _compiled[key] = str(compiler), constants
    return _compiled[key]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
