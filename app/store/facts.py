"""What the gateway has learned and keeps over a restart: facts, findings, and words of Kimi that it does not know.

Must never know what any of it means.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database
from app.store.dialects import per_dialect


@dataclass(frozen=True, slots=True)
class UnrecognisedRow:
    """Something that an upstream said ``times`` times and that we do not know."""

    upstream: str
    kind: str
    times: int
    last_seen_at: float


_facts = sa.table("facts", sa.column("name", sa.String), sa.column("value", sa.Text))

_kept = sa.table("kept", sa.column("name", sa.String), sa.column("value", sa.Text), sa.column("kept_at", sa.Float))

_unrecognised = sa.table(
    "unrecognised",
    sa.column("upstream", sa.String),
    sa.column("kind", sa.String),
    sa.column("times", sa.Integer),
    sa.column("last_seen_at", sa.Float),
)

_P = sa.bindparam

_ADD_FACT = per_dialect(
    lambda insert: insert(_facts).values(name=_P("name"), value=_P("value")).on_conflict_do_nothing()
)
_FIND_FACT = sa.select(_facts.c.value).where(_facts.c.name == _P("of_name"))

_KEEP = per_dialect(
    lambda insert: (
        insert(_kept)
        .values(name=_P("name"), value=_P("value"), kept_at=_P("now"))
        .on_conflict_do_update(index_elements=["name"], set_={"value": _P("value"), "kept_at": _P("now")})
    )
)
_FIND_KEPT = sa.select(_kept.c.value, _kept.c.kept_at).where(_kept.c.name == _P("of_name"))

_COUNT = per_dialect(
    lambda insert: (
        insert(_unrecognised)
        .values(upstream=_P("upstream"), kind=_P("kind"), times=1, last_seen_at=_P("now"))
        .on_conflict_do_update(
            index_elements=["upstream", "kind"],
            set_={"times": _unrecognised.c.times + 1, "last_seen_at": _P("now")},
        )
    )
)
_ALL_UNRECOGNISED = sa.select(*_unrecognised.c).order_by(_unrecognised.c.times.desc(), _unrecognised.c.kind)


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
