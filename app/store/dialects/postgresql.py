"""PostgreSQL over psycopg 3: one server for any number of gateways.

psycopg works together with gevent by itself, as long as gevent has patched before it is imported
(https://www.psycopg.org/psycopg3/docs/advanced/async.html#gevent-support): gunicorn's workers see to that.
Error classes: https://www.postgresql.org/docs/current/errcodes-appendix.html.
"""

import re
from typing import Any

import sqlalchemy as sa

from app.store.dialects.kind import Kind

# Connections per process. PostgreSQL allows 100 by default and keeps 3 for its administrator, so that
# 19 workers, of however many gateways, find room. A statement takes about a millisecond: more would wait there.
_POOL_SIZE = 3
_POOL_OVERFLOW = 2
# How long a statement waits for one of them. Seconds.
_POOL_WAIT_S = 15.0

# A machine that vanished is noticed, and does not keep what it had locked.
_CONNECTION = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "application_name": "kimi-gateway",
}
_SESSION = "-c lock_timeout=10s -c idle_in_transaction_session_timeout=10s"

# Any number that is ours; locks of other databases of the same server are other locks.
_LOCK = 5_204_613_377

_PASSING = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
}

# libpq gives no error class for a connection that was refused. Only makes a wrong setting fail at once: where the
# server speaks another language, it fails after the wait for a server that is still starting.
_NEVER = re.compile(r"authentication failed|does not exist|no pg_hba\.conf entry|no password supplied")


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


def _storable(values: dict[str, Any]) -> dict[str, Any]:
    """Its texts hold no NUL, which Kimi or a client may well have sent."""
    return {
        name: value.replace("\0", "\ufffd") if isinstance(value, str) else value for name, value in values.items()
    }


def _is_passing(error: Exception, is_connecting: bool, is_lost: bool) -> bool:
    # Imported here because this file is loaded also where SQLite is used.
    from psycopg import OperationalError

    if is_lost or getattr(error, "sqlstate", None) in _PASSING:
        return True
    return is_connecting and isinstance(error, OperationalError) and not _NEVER.search(str(error))


POSTGRESQL = Kind(
    open_engine=_open_engine,
    begin_exclusively=f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK})",
    clock=sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS FLOAT) AS now"),
    storable=_storable,
    may_be_away=True,
    is_passing=_is_passing,
    patience_s=15.0,
    pause_s=(0.05, 0.25),
)
