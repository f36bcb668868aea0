"""Work that one process does for all, and which process that is. Knows nothing of the work."""

import sqlalchemy as sa

from app.store.database import Database
from app.store.dialects import per_dialect
from app.store.tables import roles

_P = sa.bindparam

_ACQUIRE = per_dialect(
    lambda insert: (
        insert(roles)
        .values(name=_P("name"), holder=_P("holder"), held_until=_P("until"))
        .on_conflict_do_update(
            index_elements=["name"],
            set_={"holder": _P("holder"), "held_until": _P("until")},
            # The same holder again: its first try was committed, and its connection was lost before the result came.
            where=sa.or_(roles.c.held_until <= _P("now"), roles.c.holder == _P("holder")),
        )
    )
)
_OF_HOLDER = (roles.c.name == _P("of_name"), roles.c.holder == _P("of_holder"))
_EXTEND = sa.update(roles).where(*_OF_HOLDER).values(held_until=_P("until"))
_RELEASE = sa.delete(roles).where(*_OF_HOLDER)


class RoleRows:
    """The table ``roles``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, name: str, holder: str, now: float, until: float) -> bool:
        """Whether ``holder`` has the role until ``until``. False if another one has it."""
        return self._database.run(_ACQUIRE, name=name, holder=holder, now=now, until=until) > 0

    def extend(self, name: str, holder: str, until: float) -> bool:
        """False if another one has taken it over."""
        return self._database.run(_EXTEND, of_name=name, of_holder=holder, until=until) > 0

    def release(self, name: str, holder: str) -> None:
        self._database.run(_RELEASE, of_name=name, of_holder=holder)
