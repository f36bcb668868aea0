"""What the owner is told of: whether it is so, since when, and what they were told last. Knows no meaning of it."""

from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database
from app.store.dialects import per_dialect
from app.store.tables import notifications


@dataclass(frozen=True, slots=True)
class NotificationRow:
    """Something that is so or not. ``is_on`` since ``since``. ``told``: what the owner was told last, at ``told_at``
    (0: never). ``tries``: to tell that it has changed, the next one from ``try_at`` on. Times are Unix seconds."""

    name: str
    is_on: bool
    since: float
    told: bool = False
    told_at: float = 0.0
    tries: int = 0
    try_at: float = 0.0


_P = sa.bindparam

_ALL = sa.select(*notifications.c).order_by(notifications.c.name)
_SWITCH = per_dialect(
    lambda insert: (
        insert(notifications)
        .values(
            name=_P("name"), is_on=_P("is_on"), since=_P("now"), told=sa.false(), told_at=0.0, tries=0, try_at=0.0
        )
        .on_conflict_do_update(
            index_elements=["name"],
            set_={"is_on": _P("is_on"), "since": _P("now"), "tries": 0, "try_at": 0.0},
        )
    )
)
_OF_NAME = notifications.c.name == _P("of_name")
_CLAIM = (
    sa.update(notifications)
    .where(_OF_NAME, notifications.c.tries == _P("of_tries"), notifications.c.try_at <= _P("now"))
    .values(tries=notifications.c.tries + 1, try_at=_P("until"))
)
_SETTLE = sa.update(notifications).where(_OF_NAME).values(told=_P("told"), told_at=_P("told_at"), tries=0, try_at=0.0)
_PUT_OFF = sa.update(notifications).where(_OF_NAME).values(try_at=_P("until"))
_DELETE = sa.delete(notifications).where(_OF_NAME)


class NotificationRows:
    """The table ``notifications``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[NotificationRow]:
        return [NotificationRow(**row) for row in self._database.rows(_ALL)]

    def switch(self, name: str, is_on: bool, now: float) -> None:
        """It is so, or not any more, from now on."""
        self._database.run(_SWITCH, name=name, is_on=is_on, now=now)

    def claim(self, row: NotificationRow, now: float, until: float) -> bool:
        """Whether this process may tell the owner; no other one may until ``until``."""
        return self._database.run(_CLAIM, of_name=row.name, of_tries=row.tries, now=now, until=until) > 0

    def settle(self, name: str, told: bool, told_at: float) -> None:
        """The owner was told, or need not be."""
        self._database.run(_SETTLE, of_name=name, told=told, told_at=told_at)

    def put_off(self, name: str, until: float) -> None:
        """The next try is from ``until`` on."""
        self._database.run(_PUT_OFF, of_name=name, until=until)

    def delete(self, name: str) -> None:
        self._database.run(_DELETE, of_name=name)
