"""The API keys that were added by command, and the requests that each of them makes. Holds digests, never a key.

Knows neither how a digest is made nor what a key may do, apart from its two limits.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.processes import is_alive
from app.store.tables import api_key_uses, api_keys


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key. A revoked one stays: its name, and the fact that there once were keys.

    ``per_minute``, ``at_once``: limits, None for any number of requests. The times are Unix seconds.
    """

    digest: str
    name: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    per_minute: int | None
    at_once: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a key has done and is doing.

    ``requests``: begun within the window. ``running``: not ended yet. ``oldest_at``, ``newest_at``: when the first
    and the last request within the window began, 0 if there is none.
    """

    requests: int
    running: int
    oldest_at: float
    newest_at: float


_P = sa.bindparam

_ALL = sa.select(*api_keys.c).order_by(api_keys.c.created_at, api_keys.c.name)
_FIND_NAME = sa.select(api_keys.c.digest).where(api_keys.c.name == _P("of_name"), api_keys.c.revoked_at.is_(None))
_ADD = sa.insert(api_keys).values({column.name: _P(column.name) for column in api_keys.c})
_REVOKE = (
    sa.update(api_keys)
    .where(api_keys.c.name == _P("of_name"), api_keys.c.revoked_at.is_(None))
    .values(revoked_at=_P("now"))
)

_IS_RUNNING = sa.and_(api_key_uses.c.ends_at > _P("now"), is_alive(api_key_uses.c.process_id))
_IN_WINDOW = api_key_uses.c.began_at > _P("since")
_OF_KEY = api_key_uses.c.digest == _P("of_digest")
_DELETE_OLD = sa.delete(api_key_uses).where(_OF_KEY, api_key_uses.c.began_at <= _P("since"), sa.not_(_IS_RUNNING))
_COUNT = sa.select(
    sa.func.coalesce(sa.func.sum(sa.case((_IN_WINDOW, 1), else_=0)), 0).label("requests"),
    sa.func.coalesce(sa.func.sum(sa.case((_IS_RUNNING, 1), else_=0)), 0).label("running"),
    sa.func.coalesce(sa.func.min(sa.case((_IN_WINDOW, api_key_uses.c.began_at), else_=None)), 0.0).label("oldest_at"),
    sa.func.coalesce(sa.func.max(api_key_uses.c.began_at), 0.0).label("newest_at"),
).where(_OF_KEY, api_key_uses.c.id != _P("except_id"))
_FIND_USE = sa.select(api_key_uses.c.id).where(api_key_uses.c.id == _P("of_id"))
_BEGIN_USE = sa.insert(api_key_uses).values({column.name: _P(column.name) for column in api_key_uses.c})
_END_USE = sa.update(api_key_uses).where(api_key_uses.c.id == _P("of_id")).values(ends_at=0.0)


class KeyRows:
    """The tables ``api_keys`` and ``api_key_uses``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[KeyRow]:
        return [KeyRow(**row) for row in self._database.rows(_ALL)]

    def add(self, key: KeyRow) -> bool:
        """False if there is a key of this name that has not been revoked."""

        def work(tx: Transaction) -> bool:
            found = tx.row(_FIND_NAME, of_name=key.name)
            if found is not None:
                # The same digest: this work was committed already and is repeated.
                return bool(found["digest"] == key.digest)
            values = {name: getattr(key, name) for name in KeyRow.__slots__}
            tx.run(_ADD, **values)
            return True

        return self._database.in_exclusive_transaction(work)

    def revoke(self, name: str, now: float) -> bool:
        """False if there is no key of this name that has not been revoked."""
        return self._database.run(_REVOKE, of_name=name, now=now) > 0

    def begin_use(
        self, key: KeyRow, use_id: str, *, since: float, process_id: str, now: float, ends_at: float
    ) -> tuple[Usage, bool]:
        """Counts a request that begins now, unless the key has reached one of its limits.

        ``since``: the beginning of the window. ``ends_at``: the request runs until then at the latest. Returns the
        usage before this request, and whether the request was counted.
        """

        def work(tx: Transaction) -> tuple[Usage, bool]:
            at = {"of_digest": key.digest, "since": since, "now": now}
            tx.run(_DELETE_OLD, **at)
            # If this work was committed already and is repeated, its own row is there and is not counted again.
            is_counted = tx.row(_FIND_USE, of_id=use_id) is not None
            row: dict[str, Any] = tx.row(_COUNT, **at, except_id=use_id) or {}
            usage = Usage(int(row["requests"]), int(row["running"]), row["oldest_at"], row["newest_at"])
            fits = (key.per_minute is None or usage.requests < key.per_minute) and (
                key.at_once is None or usage.running < key.at_once
            )
            if fits and not is_counted:
                tx.run(_BEGIN_USE, id=use_id, digest=key.digest, began_at=now, process_id=process_id, ends_at=ends_at)
            return usage, fits

        return self._database.in_exclusive_transaction(work)

    def end_use(self, use_id: str) -> None:
        """The request no longer runs. It still counts in the window."""
        self._database.run(_END_USE, of_id=use_id)
