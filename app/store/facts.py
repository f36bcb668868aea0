"""What the gateway has learned and keeps over a restart: facts, findings, and words of Kimi that it does not know.

Must never know what any of it means.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database
from app.store.dialects import per_dialect
from app.store.tables import cache, constants, unrecognised


@dataclass(frozen=True, slots=True)
class UnrecognisedRow:
    """Something that an upstream said ``times`` times and that we do not know."""

    upstream: str
    kind: str
    times: int
    last_seen_at: float


_P = sa.bindparam

_ADD_FACT = per_dialect(
    lambda insert: insert(constants).values(name=_P("name"), value=_P("value")).on_conflict_do_nothing()
)
_FIND_FACT = sa.select(constants.c.value).where(constants.c.name == _P("of_name"))

_KEEP = per_dialect(
    lambda insert: (
        insert(cache)
        .values(name=_P("name"), value=_P("value"), kept_at=_P("now"))
        .on_conflict_do_update(index_elements=["name"], set_={"value": _P("value"), "kept_at": _P("now")})
    )
)
_FIND_KEPT = sa.select(cache.c.value, cache.c.kept_at).where(cache.c.name == _P("of_name"))

_COUNT = per_dialect(
    lambda insert: (
        insert(unrecognised)
        .values(upstream=_P("upstream"), kind=_P("kind"), times=1, last_seen_at=_P("now"))
        .on_conflict_do_update(
            index_elements=["upstream", "kind"],
            set_={"times": unrecognised.c.times + 1, "last_seen_at": _P("now")},
        )
    )
)
_ALL_UNRECOGNISED = sa.select(*unrecognised.c).order_by(unrecognised.c.times.desc(), unrecognised.c.kind)


class Facts:
    """Names with values: those that never change once written, and those that are renewed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def settle(self, name: str, value: str) -> str:
        """The value that was first written under ``name``, by whichever process came first."""
        self._database.run(_ADD_FACT, name=name, value=value)
        row = self._database.row(_FIND_FACT, of_name=name)
        assert row is not None
        return str(row["value"])

    def keep(self, name: str, value: str, now: float) -> None:
        self._database.run(_KEEP, name=name, value=value, now=now)

    def kept(self, name: str) -> tuple[str, float] | None:
        """The value and when it was kept."""
        row = self._database.row(_FIND_KEPT, of_name=name)
        return None if row is None else (row["value"], row["kept_at"])


class Unrecognised:
    """What upstreams said that we did not understand, counted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self, upstream: str, kind: str, now: float) -> None:
        """May count twice where the database is lost in that moment: it is a measure of how much there is."""
        self._database.run(_COUNT, upstream=upstream, kind=kind, now=now)

    def all(self) -> list[UnrecognisedRow]:
        """All that was ever met, the most frequent first."""
        return [UnrecognisedRow(**row) for row in self._database.rows(_ALL_UNRECOGNISED)]
