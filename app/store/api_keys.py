"""The API keys that were added by command, and the requests that each of them makes. Holds digests, never a key.

Knows neither how a digest is made nor what a key may do, apart from its two limits. What a request costs here does
not depend on how many keys there are, nor on how many requests a key has made.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.dialects import per_dialect
from app.store.processes import is_alive
from app.store.tables import api_key_seconds, api_key_uses, api_keys, files


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key. A revoked one stays: its name, and the fact that there once were keys.

    ``per_minute``, ``at_once``: limits, None for any number of requests. ``models``: those that it may use, with
    commas, ``*`` for any characters; None for all. ``tokens_per_day``: None for any number. The times are Unix
    seconds. ``version`` grows with every change of any key.
    """

    digest: str
    name: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    per_minute: int | None
    at_once: int | None
    version: int = 0
    models: str | None = None
    tokens_per_day: int | None = None

    @property
    def model_patterns(self) -> tuple[str, ...]:
        """Empty for all models."""
        return tuple(filter(None, (self.models or "").split(",")))


class KeyNameTaken(Exception):
    """Another key, which was not revoked, has this name."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a key has done and is doing.

    ``requests``: begun within the window. ``running``: not ended yet. ``oldest_at``: the first of those in the window
    leave it one window later. ``newest_at``: when the last of them began. Both are 0 if there is none.
    """

    requests: int = 0
    running: int = 0
    oldest_at: float = 0.0
    newest_at: float = 0.0


_P = sa.bindparam

_ALL = sa.select(*api_keys.c).order_by(api_keys.c.created_at, api_keys.c.name)
_CHANGED = sa.select(*api_keys.c).where(api_keys.c.version > _P("since")).order_by(api_keys.c.version)
_NEXT = sa.select(*api_keys.c).where(api_keys.c.digest > _P("after")).order_by(api_keys.c.digest).limit(_P("most"))
_NEXT_VERSION = sa.select(sa.func.coalesce(sa.func.max(api_keys.c.version), 0) + 1).scalar_subquery()
_FIND_NAME = sa.select(api_keys.c.digest).where(api_keys.c.name == _P("of_name"), api_keys.c.revoked_at.is_(None))
_ADD = sa.insert(api_keys).values(
    {**{column.name: _P(column.name) for column in api_keys.c}, "version": _NEXT_VERSION}
)
_REVOKE = (
    sa.update(api_keys)
    .where(api_keys.c.name == _P("of_name"), api_keys.c.revoked_at.is_(None))
    .values(revoked_at=_P("now"), version=_NEXT_VERSION)
)

_EXPIRE_FILES = (
    sa.update(files)
    .where(files.c.owner == _P("of_owner"), sa.or_(files.c.expires_at.is_(None), files.c.expires_at > _P("now")))
    .values(expires_at=_P("now"))
)
_EXPIRED = sa.select(api_keys.c.digest).where(api_keys.c.expires_at < _P("before"))
_FIND_DIGEST = sa.select(*api_keys.c).where(api_keys.c.digest == _P("of_digest"), api_keys.c.revoked_at.is_(None))
_CHANGEABLE = ("name", "expires_at", "per_minute", "at_once", "models", "tokens_per_day")
_CHANGE = (
    sa.update(api_keys)
    .where(api_keys.c.digest == _P("of_digest"))
    .values({**{name: _P(name) for name in _CHANGEABLE}, "version": _NEXT_VERSION})
)

# A second counts until its last request has left the window, so no minute has more requests than were allowed. One
# that lies ahead was written before the clock was set back.
_DELETE_OLD = sa.delete(api_key_seconds).where(
    api_key_seconds.c.digest == _P("of_digest"),
    sa.or_(api_key_seconds.c.newest_at <= _P("since"), api_key_seconds.c.newest_at > _P("latest")),
)
_COUNT = sa.select(
    sa.func.coalesce(sa.func.sum(api_key_seconds.c.requests), 0).label("requests"),
    sa.func.coalesce(sa.func.min(api_key_seconds.c.newest_at), 0.0).label("oldest_at"),
    sa.func.coalesce(sa.func.max(api_key_seconds.c.newest_at), 0.0).label("newest_at"),
).where(api_key_seconds.c.digest == _P("of_digest"))
_ADD_TO_SECOND = per_dialect(
    lambda insert: (
        insert(api_key_seconds)
        .values(digest=_P("digest"), second=_P("second"), requests=1, newest_at=_P("now"))
        .on_conflict_do_update(
            index_elements=["digest", "second"],
            set_={"requests": api_key_seconds.c.requests + 1, "newest_at": _P("now")},
        )
    )
)
_DELETE_FORGOTTEN = sa.delete(api_key_seconds).where(
    sa.tuple_(api_key_seconds.c.digest, api_key_seconds.c.second).in_(
        sa.select(api_key_seconds.c.digest, api_key_seconds.c.second)
        .where(api_key_seconds.c.second < _P("before"))
        .limit(_P("most"))
    )
)

_COUNT_RUNNING = sa.select(sa.func.count().label("running")).where(
    api_key_uses.c.digest == _P("of_digest"),
    api_key_uses.c.ends_at > 0,
    is_alive(api_key_uses.c.process_id),
    api_key_uses.c.id != _P("except_id"),
)
_BEGIN_USE = per_dialect(
    lambda insert: (
        insert(api_key_uses)
        .values({column: _P(column.name) for column in api_key_uses.c})
        .on_conflict_do_nothing(index_elements=["id"])
    )
)
_END_USE = sa.delete(api_key_uses).where(api_key_uses.c.id == _P("of_id"))


class KeyRows:
    """The tables ``api_keys``, ``api_key_uses`` and ``api_key_seconds``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[KeyRow]:
        return [KeyRow(**row) for row in self._database.rows(_ALL)]

    def changed_since(self, version: int) -> list[KeyRow]:
        """The keys that were added or changed after the change with this number, which is at least -1."""
        return [KeyRow(**row) for row in self._database.rows(_CHANGED, since=version)]

    def after(self, digest: str, most: int) -> Sequence[KeyRow]:
        """The next ``most`` keys, in the order of their digests."""
        return [KeyRow(**row) for row in self._database.rows(_NEXT, after=digest, most=most)]

    def add(self, key: KeyRow) -> bool:
        """False if there is a key of this name that has not been revoked."""

        def work(tx: Transaction) -> bool:
            found = tx.row(_FIND_NAME, of_name=key.name)
            if found is not None:
                # The same digest: this work was committed already and is repeated.
                return bool(found["digest"] == key.digest)
            tx.run(_ADD, **{name: getattr(key, name) for name in KeyRow.__slots__ if name != "version"})
            return True

        return self._database.in_exclusive_transaction(work)

    def revoke(self, name: str, now: float, owner_of: Callable[[str], str]) -> bool:
        """False if there is no key of this name that has not been revoked. Its files expire now. ``owner_of``: the
        name under which they are kept, from the digest of the key."""

        def work(tx: Transaction) -> bool:
            found = tx.row(_FIND_NAME, of_name=name)
            if found is None:
                return False
            tx.run(_REVOKE, of_name=name, now=now)
            tx.run(_EXPIRE_FILES, of_owner=owner_of(found["digest"]), now=now)
            return True

        return self._database.in_exclusive_transaction(work)

    def expire_files(self, seconds: float, owner_of: Callable[[str], str]) -> None:
        """The files of keys that expired so many seconds ago expire now. ``owner_of``: as for ``revoke``."""
        now = self._database.now()
        for row in self._database.rows(_EXPIRED, before=now - seconds):
            self._database.run(_EXPIRE_FILES, of_owner=owner_of(row["digest"]), now=now)

    def change(self, digest: str, **values: str | float | None) -> KeyRow | None:
        """Changes name, expires_at, per_minute, at_once, models or tokens_per_day. Returns the key before; None if it
        is not there, or was revoked. Raises KeyNameTaken."""

        def work(tx: Transaction) -> KeyRow | None:
            found = tx.row(_FIND_DIGEST, of_digest=digest)
            if found is None:
                return None
            row = KeyRow(**found)
            named = tx.row(_FIND_NAME, of_name=values.get("name", row.name))
            if named is not None and named["digest"] != digest:
                raise KeyNameTaken
            tx.run(_CHANGE, of_digest=digest, **{**{name: getattr(row, name) for name in _CHANGEABLE}, **values})
            return row

        return self._database.in_exclusive_transaction(work)

    def begin_use(
        self, key: KeyRow, use_id: str, *, window_s: float, process_id: str, now: float, ends_at: float
    ) -> tuple[Usage, bool]:
        """Counts a request that begins now, unless the key has reached one of its limits.

        Returns the usage before this request, and whether the request was counted. Where the connection is lost while
        the count is committed, it may be counted twice.
        """

        def work(tx: Transaction) -> tuple[Usage, bool]:
            usage = self._usage(tx, key, use_id, window_s, now)
            fits = (key.per_minute is None or usage.requests < key.per_minute) and (
                key.at_once is None or usage.running < key.at_once
            )
            if fits and key.per_minute is not None:
                tx.run(_ADD_TO_SECOND, digest=key.digest, second=math.floor(now), now=now)
            if fits and key.at_once is not None:
                values = {"id": use_id, "digest": key.digest, "began_at": now}
                tx.run(_BEGIN_USE, **values, process_id=process_id, ends_at=ends_at)
            return usage, fits

        return self._database.in_exclusive_transaction(work)

    def end_use(self, use_id: str) -> None:
        """The request no longer runs. It still counts in the window."""
        self._database.run(_END_USE, of_id=use_id)

    def delete_forgotten(self, before: float, most: int) -> int:
        """Deletes seconds that lie before ``before``, of keys that make no requests any more: ``most`` at a time.
        Returns how many.
        """
        return self._database.run(_DELETE_FORGOTTEN, before=math.floor(before), most=most)

    def _usage(self, tx: Transaction, key: KeyRow, use_id: str, window_s: float, now: float) -> Usage:
        row, running = None, 0
        if key.per_minute is not None:
            tx.run(_DELETE_OLD, of_digest=key.digest, since=now - window_s, latest=now + window_s)
            row = tx.row(_COUNT, of_digest=key.digest)
        if key.at_once is not None:
            # Its own row is there if this work was committed already and is repeated.
            counted = tx.row(_COUNT_RUNNING, of_digest=key.digest, now=now, except_id=use_id)
            running = int(counted["running"]) if counted else 0
        if row is None:
            return Usage(running=running)
        return Usage(int(row["requests"]), running, row["oldest_at"], row["newest_at"])
