"""The processes that are alive, and the deletion of what dead ones have left behind. Knows no meaning of either."""

import sqlalchemy as sa

from app.store.database import OWN_PROCESS_ID, Database, Transaction
from app.store.dialects import per_dialect
from app.store.tables import leases, processes, queue

_P = sa.bindparam


def is_alive(process_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether the process with this id is alive at the parameter ``now``.

    The process that asks always is, even if it could not renew its lease for so long that others call it dead: what
    it holds itself is not free for it.
    """
    # Not EXISTS with a reference to the row outside: within ON CONFLICT that would mean any row of the outer table.
    return sa.or_(
        process_id == OWN_PROCESS_ID,
        process_id.in_(sa.select(processes.c.id).where(processes.c.until > _P("now"))),
    )


_RENEW = per_dialect(
    lambda insert: (
        insert(processes)
        .values(id=_P("id"), until=_P("until"))
        .on_conflict_do_update(index_elements=["id"], set_={"until": _P("until")})
    )
)
_EXTEND_ALL = (
    sa.update(processes)
    .where(processes.c.until > _P("since"), processes.c.until < _P("new_until"))
    .values(until=_P("new_until"))
)
_DELETE = sa.delete(processes).where(processes.c.id == _P("of_id"))
_DELETE_DEAD = sa.delete(processes).where(processes.c.until <= _P("before"))
_DELETE_LEFTOVERS = [
    sa.delete(table).where(sa.or_(table.c.ends_at <= _P("now"), sa.not_(is_alive(table.c.process_id))))
    for table in (leases, queue)
]

# A process that was frozen for less than this finds everything as it was. Seconds.
_GRACE_S = 300.0


class ProcessRows:
    """The table ``processes``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def renew(self, process_id: str, lease_s: float) -> None:
        """The process is alive for ``lease_s`` from the moment of the write, which may be late because of retries."""
        self._database.with_retries(lambda tx: tx.run(_RENEW, id=process_id, until=self._database.now() + lease_s))

    def extend_all(self, tx: Transaction, since: float, until: float) -> None:
        """All processes that were alive at ``since`` are alive until ``until``."""
        tx.run(_EXTEND_ALL, since=since, new_until=until)

    def expire(self, process_id: str) -> None:
        """The process is not alive any more."""
        self._database.run(_DELETE, of_id=process_id)

    def delete_leftovers(self, now: float) -> None:
        """Deletes leases and queued requests of dead processes, which have no effect any more."""
        for statement in _DELETE_LEFTOVERS:
            self._database.run(statement, now=now)
        self._database.run(_DELETE_DEAD, before=now - _GRACE_S)
