"""Named values that survive a restart, and counts of unrecognised frames.

Must never know what a value means.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from app.chat import refused_form_of
from app.store.database import Database
from app.store.dialects import per_dialect
from app.store.tables import cache, constants, unrecognised


@dataclass(frozen=True, slots=True)
class UnrecognisedRow:
    """A kind of frame or event that an upstream has sent ``times`` times, last at ``last_seen_at``."""

    upstream: str
    kind: str
    times: int
    last_seen_at: float

    @property
    def refused_form(self) -> str:
        """The form of a request that was refused while the next form was taken: no sign of a new protocol. Empty for
        all other kinds."""
        return refused_form_of(self.kind)


_P = sa.bindparam

_ADD_CONSTANT = per_dialect(
    lambda insert: insert(constants).values(name=_P("name"), value=_P("value")).on_conflict_do_nothing()
)
_FIND_CONSTANT = sa.select(constants.c.value).where(constants.c.name == _P("of_name"))

_PUT = per_dialect(
    lambda insert: (
        insert(cache)
        .values(name=_P("name"), value=_P("value"), kept_at=_P("now"))
        .on_conflict_do_update(index_elements=["name"], set_={"value": _P("value"), "kept_at": _P("now")})
    )
)
_GET = sa.select(cache.c.value, cache.c.kept_at).where(cache.c.name == _P("of_name"))

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
    """Named values: constants (table ``facts``), and cached values, which can be replaced (table ``kept``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set_once(self, name: str, value: str) -> str:
        """Stores a constant if there is none. Returns the stored value, which may be another process's."""
        self._database.run(_ADD_CONSTANT, name=name, value=value)
        row = self._database.row(_FIND_CONSTANT, of_name=name)
        assert row is not None
        return str(row["value"])

    def put(self, name: str, value: str, now: float) -> None:
        self._database.run(_PUT, name=name, value=value, now=now)

    def get(self, name: str) -> tuple[str, float] | None:
        """The value and the time of its ``put`` in Unix seconds. None if there is none."""
        row = self._database.row(_GET, of_name=name)
        return None if row is None else (row["value"], row["kept_at"])


class Unrecognised:
    """The table ``unrecognised``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self, upstream: str, kind: str, now: float) -> None:
        """Adds one. May add two if the connection is lost at that moment, so the number is only an estimate."""
        self._database.run(_COUNT, upstream=upstream, kind=kind, now=now)

    def all(self) -> list[UnrecognisedRow]:
        """All kinds, the most frequent first."""
        return [UnrecognisedRow(**row) for row in self._database.rows(_ALL_UNRECOGNISED)]
