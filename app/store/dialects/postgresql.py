"""PostgreSQL over psycopg 3: one server for any number of gateways.

psycopg works together with gevent by itself if gevent has patched before psycopg is imported
(https://www.psycopg.org/psycopg3/docs/advanced/async.html#gevent-support). gunicorn's workers take care of that.
Error codes: https://www.postgresql.org/docs/current/errcodes-appendix.html.
"""

import re
from typing import Any

import sqlalchemy as sa

from app.store.dialects.kind import DatabaseKind

# Connections per process. PostgreSQL allows 100 by default and reserves 3 for its administrator, so there is room for
# 19 workers, of however many gateways. A statement takes about a millisecond: more connections would wait there.
_POOL_SIZE = 3
_POOL_OVERFLOW = 2
# How long a statement waits for one of them. Seconds.
_POOL_WAIT_S = 15.0

# A client that has vanished is noticed, and its locks are released.
_CONNECTION = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "application_name": "kimi-gateway",
}
_SESSION = "-c lock_timeout=10s -c idle_in_transaction_session_timeout=10s"

# Any number, the same for all gateways. Advisory locks belong to one database of a server.
_LOCK = 5_204_613_377

_TRANSIENT = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
}

# disk_full, read_only_sql_transaction (a standby, or a server that its owner protects), io_error.
_UNWRITABLE = {"53100", "25006", "58030"}
_SERVES_NOBODY = {"57P01", "57P02", "57P03"}
# The same where libpq gives no error code: no process listens, or one that starts or stops. In another language it is
# not recognised, which makes a process more careful than it had to be.
_NOT_THERE = re.compile(
    r"connection refused|no such file or directory|database system is (starting up|shutting down|in recovery mode)",
    re.IGNORECASE,
)

# libpq gives no error code if a connection was refused. This only makes a wrong setting fail at once: for a server
# whose messages are in another language, the same failure comes after all retries.
_PERMANENT = re.compile(r"authentication failed|does not exist|no pg_hba\.conf entry|no password supplied")


def _open_engine(url: sa.URL, durable: bool) -> sa.Engine:  # noqa: ARG001  # a commit is always on the server's disk
    defaults = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    if "options" not in url.query:
        defaults["options"] = _SESSION
    return sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_OVERFLOW,
        pool_timeout=_POOL_WAIT_S,
        connect_args=defaults,
    )


def _adapt_values(values: dict[str, Any]) -> dict[str, Any]:
    """Replaces NUL, which a text of PostgreSQL cannot hold. Kimi or a client may have sent it."""
    return {
        name: value.replace("\0", "\ufffd") if isinstance(value, str) else value for name, value in values.items()
    }


def _is_transient(error: Exception, is_connecting: bool, is_lost: bool) -> bool:
    # Imported here because this file is loaded also where SQLite is used.
    from psycopg import OperationalError

    if is_lost or getattr(error, "sqlstate", None) in _TRANSIENT:
        return True
    return is_connecting and isinstance(error, OperationalError) and not _PERMANENT.search(str(error))


def _serves_nobody(error: Exception) -> bool:
    return getattr(error, "sqlstate", None) in _SERVES_NOBODY or _NOT_THERE.search(str(error)) is not None


POSTGRESQL = DatabaseKind(
    open_engine=_open_engine,
    upkeep=lambda _url: None,
    begin="BEGIN",
    begin_exclusive=f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK})",
    clock=sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS FLOAT) AS now"),
    bytes_type="BYTEA",
    adapt_values=_adapt_values,
    is_server=True,
    is_transient=_is_transient,
    serves_nobody=_serves_nobody,
    is_unwritable=lambda error: getattr(error, "sqlstate", None) in _UNWRITABLE,
    retry_for_s=15.0,
    retry_every_s=(0.05, 0.25),
)
