"""The API keys that were added by command, and what each of them is doing now. Holds no key, only digests.

Must never know what a key is allowed, nor how a digest is made.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.processes import lives
from app.store.tables import api_key_uses, api_keys


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key. One that was revoked stays: its name, and that there once were keys."""

    digest: str
    name: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    per_minute: int | None
    at_once: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a key has done and does. ``newest_at`` and ``oldest_at``: the requests within the window, or 0."""

    requests: int
    running: int
    oldest_at: float
    newest_at: float


_P = sa.bindparam

_ALL = sa.select(*api_keys.c).order_by(api_keys.c.created_at, api_keys.c.name)
_NAMED = sa.select(api_keys.c.digest).where(api_keys.c.name == _P("of_name"), api_keys.c.revoked_at.is_(None))
_ADD = sa.insert(api_keys).values({column.name: _P(column.name) for column in api_keys.c})
_REVOKE = (
    sa.update(api_keys)
    .where(api_keys.c.name == _P("of_name"), api_keys.c.revoked_at.is_(None))
    .values(revoked_at=_P("now"))
)

_RUNS = sa.and_(api_key_uses.c.ends_at > _P("now"), lives(api_key_uses.c.process_id))
_MINE = api_key_uses.c.digest == _P("of_digest")
_DROP_OLD = sa.delete(api_key_uses).where(_MINE, api_key_uses.c.began_at <= _P("since"), sa.not_(_RUNS))
_IN_WINDOW = api_key_uses.c.began_at > _P("since")
_COUNT = sa.select(
    sa.func.coalesce(sa.func.sum(sa.case((_IN_WINDOW, 1), else_=0)), 0).label("requests"),
    sa.func.coalesce(sa.func.sum(sa.case((_RUNS, 1), else_=0)), 0).label("running"),
    sa.func.coalesce(sa.func.min(sa.case((_IN_WINDOW, api_key_uses.c.began_at), else_=None)), 0.0).label("oldest_at"),
    sa.func.coalesce(sa.func.max(api_key_uses.c.began_at), 0.0).label("newest_at"),
).where(_MINE, api_key_uses.c.id != _P("but"))
_FIND = sa.select(api_key_uses.c.id).where(api_key_uses.c.id == _P("of_id"))
_BEGIN = sa.insert(api_key_uses).values({column.name: _P(column.name) for column in api_key_uses.c})
_END = sa.update(api_key_uses).where(api_key_uses.c.id == _P("of_id")).values(ends_at=0.0)


class KeyRows:
    """The tables of keys and of what they do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[KeyRow]:
        return [KeyRow(**row) for row in self._database.rows(_ALL)]

    def add(self, key: KeyRow) -> bool:
        """False where a key of this name is there that has not been revoked."""

        def work(tx: Transaction) -> bool:
            found = tx.row(_NAMED, of_name=key.name)
            if found is not None:
                # The same digest: a repetition of this very work.
                return bool(found["digest"] == key.digest)
            values = {name: getattr(key, name) for name in KeyRow.__slots__}
            tx.run(_ADD, **values)
            return True

        return self._database.exclusively(work)

    def revoke(self, name: str, now: float) -> bool:
        """False where there is no such key."""
        return self._database.run(_REVOKE, of_name=name, now=now) > 0

    def begin_use(
        self, key: KeyRow, use_id: str, *, since: float, process_id: str, now: float, ends_at: float
    ) -> tuple[Usage, bool]:
        """Counts a request that begins now, unless the key has begun its share since ``since`` or runs as many at
        once as it may. What it did before, and whether this one was counted.
        """

        def work(tx: Transaction) -> tuple[Usage, bool]:
            at = {"of_digest": key.digest, "since": since, "now": now}
            tx.run(_DROP_OLD, **at)
            # Whether this very work is repeated: then its request is there already, and is not one before it.
            is_counted = tx.row(_FIND, of_id=use_id) is not None
            row: dict[str, Any] = tx.row(_COUNT, **at, but=use_id) or {}
            usage = Usage(int(row["requests"]), int(row["running"]), row["oldest_at"], row["newest_at"])
            fits = (key.per_minute is None or usage.requests < key.per_minute) and (
                key.at_once is None or usage.running < key.at_once
            )
            if fits and not is_counted:
                tx.run(_BEGIN, id=use_id, digest=key.digest, began_at=now, process_id=process_id, ends_at=ends_at)
            return usage, fits

        return self._database.exclusively(work)

    def end_use(self, use_id: str) -> None:
        """It no longer runs; that it was there still counts."""
        self._database.run(_END, of_id=use_id)
