"""The processes that are alive, and what goes when they are not. Must never know what was held."""

import sqlalchemy as sa

from app.store.database import ME, Database, Transaction
from app.store.dialects import per_dialect
from app.store.tables import leases, processes, queue

_P = sa.bindparam


def lives(process_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether the process with this id is alive at the parameter ``now``."""
    # Whoever asks lives, also where it was out of touch for so long that it counts no longer: what it holds itself
    # is not free. Not EXISTS with a reference to the row outside: within ON CONFLICT that would mean any row of its
    # table.
    return sa.or_(process_id == ME, process_id.in_(sa.select(processes.c.id).where(processes.c.until > _P("now"))))


_BEAT = per_dialect(
    lambda insert: (
        insert(processes)
        .values(id=_P("id"), until=_P("until"))
        .on_conflict_do_update(index_elements=["id"], set_={"until": _P("until")})
    )
)
_KEEP = (
    sa.update(processes)
    .where(processes.c.until > _P("since"), processes.c.until < _P("kept_until"))
    .values(until=_P("kept_until"))
)
_DROP = sa.delete(processes).where(processes.c.id == _P("of_id"))
_DROP_DEAD = sa.delete(processes).where(processes.c.until <= _P("before"))
_LEFT_BEHIND = [
    sa.delete(table).where(sa.or_(table.c.ends_at <= _P("now"), sa.not_(lives(table.c.process_id))))
    for table in (leases, queue)
]

# A process that was frozen for no longer than this finds everything as it left it. Seconds.
_GRACE_S = 300.0


class ProcessRows:
    """The table of processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, process_id: str, lease_s: float) -> None:
        """The process counts as alive for so long, from when that is written: which may take a while."""
        self._database.patiently(lambda tx: tx.run(_BEAT, id=process_id, until=self._database.now() + lease_s))

    def keep(self, tx: Transaction, since: float, until: float) -> None:
        """Whoever was alive at ``since`` counts as alive until then."""
        tx.run(_KEEP, since=since, kept_until=until)

    def leave(self, process_id: str) -> None:
        """The process counts no longer."""
        self._database.run(_DROP, of_id=process_id)

    def sweep(self, now: float) -> None:
        """Drops what dead processes have left behind; it does not count in any case."""
        for statement in _LEFT_BEHIND:
            self._database.run(statement, now=now)
        self._database.run(_DROP_DEAD, before=now - _GRACE_S)
