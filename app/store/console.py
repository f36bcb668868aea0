"""Who is signed in to the console: links, sessions, failed logins. Holds digests only, and knows no policy."""

from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database, Row, Transaction
from app.store.tables import console_failures, console_sessions, console_tickets


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A browser that is signed in. The times are Unix seconds."""

    digest: str
    created_at: float
    seen_at: float
    browser: str


_P = sa.bindparam

_ADD_TICKET = sa.insert(console_tickets).values(digest=_P("digest"), expires_at=_P("expires_at"))
_HAS_TICKET = sa.select(console_tickets.c.digest).where(console_tickets.c.digest == _P("of_digest"))
_USE_TICKET = sa.delete(console_tickets).where(
    console_tickets.c.digest == _P("of_digest"), console_tickets.c.expires_at > _P("now")
)
_DELETE_OLD_TICKETS = sa.delete(console_tickets).where(console_tickets.c.expires_at <= _P("now"))

_SESSION_COLUMNS = (
    console_sessions.c.digest,
    console_sessions.c.created_at,
    console_sessions.c.seen_at,
    console_sessions.c.browser,
)
_ADD_SESSION = sa.insert(console_sessions).values(
    digest=_P("digest"), created_at=_P("now"), seen_at=_P("now"), browser=_P("browser")
)
_LIVES = (console_sessions.c.created_at > _P("created_after"), console_sessions.c.seen_at > _P("seen_after"))
_FIND_SESSION = sa.select(*_SESSION_COLUMNS).where(console_sessions.c.digest == _P("of_digest"), *_LIVES)
_ALL_SESSIONS = sa.select(*_SESSION_COLUMNS).where(*_LIVES).order_by(console_sessions.c.seen_at.desc())
_HAS_SESSION = sa.select(console_sessions.c.digest).where(console_sessions.c.digest == _P("of_digest"))
_SEE_SESSION = (
    sa.update(console_sessions).where(console_sessions.c.digest == _P("of_digest")).values(seen_at=_P("now"))
)
_DELETE_SESSION = sa.delete(console_sessions).where(console_sessions.c.digest == _P("of_digest"))
_DELETE_OTHERS = sa.delete(console_sessions).where(console_sessions.c.digest != _P("but_digest"))
_DELETE_ENDED = sa.delete(console_sessions).where(sa.not_(sa.and_(*_LIVES)))
_SET_DRAFT = (
    sa.update(console_sessions)
    .where(console_sessions.c.digest == _P("of_digest"))
    .values(draft=_P("draft"), draft_until=_P("draft_until"))
)
_FIND_DRAFT = sa.select(console_sessions.c.draft).where(
    console_sessions.c.digest == _P("of_digest"), console_sessions.c.draft_until > _P("now")
)
_DELETE_DRAFTS = (
    sa.update(console_sessions)
    .where(console_sessions.c.draft_until <= _P("now"))
    .values(draft=sa.null(), draft_until=sa.null())
)

_DELETE_OLD_FAILURES = sa.delete(console_failures).where(console_failures.c.at <= _P("before"))
_FAILURES = sa.select(console_failures.c.id, console_failures.c.address, console_failures.c.at).order_by(
    console_failures.c.at
)
_ADD_FAILURE = sa.insert(console_failures).values(id=_P("id"), address=_P("address"), at=_P("now"))
_FORGET_FAILURES = sa.delete(console_failures).where(console_failures.c.address == _P("of_address"))
_COUNT_FAILURES = sa.select(sa.func.count().label("failures")).where(console_failures.c.at > _P("since"))


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """A session ends ``idle_s`` after its last request, and ``longest_s`` after its beginning."""

    idle_s: float
    longest_s: float

    def values(self, now: float) -> dict[str, float]:
        return {"created_after": now - self.longest_s, "seen_after": now - self.idle_s}


@dataclass(frozen=True, slots=True)
class FailureLimits:
    """How many wrong passwords are accepted within ``window_s``: from one address, and from all together."""

    window_s: float
    per_address: int
    in_all: int


class ConsoleRows:
    """The tables ``console_tickets``, ``console_sessions`` and ``console_failures``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Links

    def add_ticket(self, digest: str, now: float, expires_at: float) -> None:
        def work(tx: Transaction) -> None:
            tx.run(_DELETE_OLD_TICKETS, now=now)
            if tx.row(_HAS_TICKET, of_digest=digest) is None:
                tx.run(_ADD_TICKET, digest=digest, expires_at=expires_at)

        self._database.in_exclusive_transaction(work)

    def enter(self, ticket: str, session: str, browser: str, now: float) -> bool:
        """Makes a ticket a session. ``ticket``, ``session``: their digests. False if there is no such ticket, or its
        time is over. Of several that use one ticket at the same time one gets in."""

        def work(tx: Transaction) -> bool:
            if tx.row(_HAS_SESSION, of_digest=session) is not None:
                # This work was committed already and is repeated.
                return True
            if not tx.run(_USE_TICKET, of_digest=ticket, now=now):
                return False
            tx.run(_ADD_SESSION, digest=session, now=now, browser=browser)
            return True

        return self._database.in_exclusive_transaction(work)

    # Sessions

    def add_session(self, session: str, browser: str, now: float, limits: SessionLimits) -> None:
        """``session``: the digest of its cookie. Deletes those that have ended."""

        def work(tx: Transaction) -> None:
            tx.run(_DELETE_ENDED, **limits.values(now))
            if tx.row(_HAS_SESSION, of_digest=session) is None:
                tx.run(_ADD_SESSION, digest=session, now=now, browser=browser)

        self._database.in_exclusive_transaction(work)

    def session(self, digest: str, now: float, limits: SessionLimits) -> SessionRow | None:
        """None if it has ended."""
        return _session(self._database.row(_FIND_SESSION, of_digest=digest, **limits.values(now)))

    def sessions(self, now: float, limits: SessionLimits) -> list[SessionRow]:
        """Those that have not ended, the one that was used last first."""
        return [SessionRow(**row) for row in self._database.rows(_ALL_SESSIONS, **limits.values(now))]

    def see_session(self, digest: str, now: float) -> None:
        """The session was used. Deletes what was pasted in any session and not saved in time."""
        self._database.run(_SEE_SESSION, of_digest=digest, now=now)
        self._database.run(_DELETE_DRAFTS, now=now)

    def delete_session(self, digest: str) -> None:
        self._database.run(_DELETE_SESSION, of_digest=digest)

    def delete_other_sessions(self, digest: str = "") -> int:
        """All but the one with this digest. Returns how many."""
        return self._database.run(_DELETE_OTHERS, but_digest=digest)

    # What was pasted

    def set_draft(self, digest: str, draft: str | None, until: float) -> None:
        """Keeps a sealed text with a session; None deletes it."""
        self._database.run(_SET_DRAFT, of_digest=digest, draft=draft, draft_until=until)

    def draft(self, digest: str, now: float) -> str | None:
        """None if there is none, or its time is over."""
        row = self._database.row(_FIND_DRAFT, of_digest=digest, now=now)
        return None if row is None else row["draft"]

    # Failed logins

    def begin_login(self, login_id: str, address: str, now: float, limits: FailureLimits) -> float | None:
        """Counts a try as failed before it is made, so that many at once do not pass. None if it may be made, else
        the time from which on one may be made again."""

        def work(tx: Transaction) -> float | None:
            tx.run(_DELETE_OLD_FAILURES, before=now - limits.window_s)
            rows = [row for row in tx.rows(_FAILURES) if row["id"] != login_id]
            own = [row["at"] for row in rows if row["address"] == address]
            for times, most in ((own, limits.per_address), ([row["at"] for row in rows], limits.in_all)):
                if len(times) >= most:
                    return float(times[len(times) - most]) + limits.window_s
            tx.run(_ADD_FAILURE, id=login_id, address=address, now=now)
            return None

        return self._database.in_exclusive_transaction(work)

    def forget_failures(self, address: str) -> None:
        """Somebody at this address knows the password."""
        self._database.run(_FORGET_FAILURES, of_address=address)

    def failures_since(self, since: float) -> int:
        row = self._database.row(_COUNT_FAILURES, since=since)
        return 0 if row is None else int(row["failures"])


def _session(row: Row | None) -> SessionRow | None:
    return None if row is None else SessionRow(**row)
