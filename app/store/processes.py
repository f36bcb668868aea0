"""The processes that are alive, and the deletion of what dead ones have left behind. Knows no meaning of either, and
not when a process is dead: that is for ``process_lease``.
"""

import sqlalchemy as sa

from app.store.database import OWN_PROCESS_ID, Database, Transaction
from app.store.dialects import per_dialect
from app.store.lost_chats import DELETE_OLD, add_leases
from app.store.tables import accounts, api_key_uses, leases, processes, queue, wishes

_P = sa.bindparam


def is_alive(process_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether the process with this id is alive: it is until another one has found it dead.

    The process that asks always is: what it holds itself is not free for it. No clock is compared.
    """
    # Not EXISTS with a reference to the row outside: within ON CONFLICT that would mean any row of the outer table.
    return sa.or_(process_id == OWN_PROCESS_ID, process_id.in_(sa.select(processes.c.id)))


_REGISTER = per_dialect(
    lambda insert: (
        insert(processes)
        .values(id=_P("id"), until=_P("until"), state=_P("state"))
        .on_conflict_do_update(index_elements=["id"], set_={"until": _P("until"), "state": _P("state")})
    )
)
_RENEW = sa.update(processes).where(processes.c.id == _P("of_id")).values(until=_P("until"), state=_P("state"))
_STATES = sa.select(processes.c.id, processes.c.state).order_by(processes.c.id)
_ALL = sa.select(processes.c.id, processes.c.until)
_DELETE = sa.delete(processes).where(processes.c.id == _P("of_id"))
_DELETE_UNCHANGED = _DELETE.where(processes.c.until == _P("unchanged"))
# What means nothing any more without its process. Conversations and answers stay, and are free.
_LEFTOVERS = (leases, queue, api_key_uses)
_DELETE_LEFTOVERS = [sa.delete(table).where(table.c.process_id == _P("of_process")) for table in _LEFTOVERS]
_DELETE_UNKNOWN = [
    sa.delete(table).where(table.c.process_id.not_in(sa.select(processes.c.id)), table.c.process_id != OWN_PROCESS_ID)
    for table in _LEFTOVERS
]
_DELETE_ENDED = [sa.delete(table).where(table.c.ends_at <= _P("now")) for table in (leases, queue)]
# The chats that their streams may have opened.
_LOSE = add_leases(leases.c.process_id == _P("of_process"))
_LOSE_UNKNOWN = add_leases(
    leases.c.process_id.not_in(sa.select(processes.c.id)), leases.c.process_id != OWN_PROCESS_ID
)
_LOSE_ENDED = add_leases(leases.c.ends_at <= _P("now"))
_DELETE_WISHES = sa.delete(wishes).where(wishes.c.id.not_in(sa.select(queue.c.wish_id)))
# After leases were deleted, and not released one by one.
_streams = (
    sa.select(sa.func.count()).select_from(leases).where(leases.c.account_id == accounts.c.id).scalar_subquery()
)
_COUNT_STREAMS = sa.update(accounts).where(accounts.c.streams != _streams).values(streams=_streams)


class ProcessRows:
    """The table ``processes``: one row per living process. ``until`` changes with each renewal; when that time comes
    means nothing. It is negative if the process has nothing to do, see ``process_lease``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, process_id: str, until: float, state: str | None = None) -> None:
        """The process is alive. ``state``: what it is doing, for people."""
        self._database.run(_REGISTER, id=process_id, until=until, state=state)

    def renew(self, process_id: str, until: float, state: str | None = None) -> bool:
        """The process is still alive. False if another one has found it dead."""
        return self._database.run(_RENEW, of_id=process_id, until=until, state=state) > 0

    def states(self) -> dict[str, str | None]:
        """What the living processes are doing, as they wrote it; None for those that do not say."""
        return {row["id"]: row["state"] for row in self._database.rows(_STATES)}

    def all(self) -> dict[str, float]:
        """The living processes, each with the value of its last renewal."""
        return {row["id"]: row["until"] for row in self._database.rows(_ALL)}

    def delete(self, process_id: str) -> None:
        """The process is not alive any more, and neither is what it held."""
        self._database.in_exclusive_transaction(lambda tx: self._delete(tx, process_id))

    def delete_unchanged(self, process_id: str, until: float) -> bool:
        """``delete``, unless it has been renewed since it had this value. Returns whether it was."""

        def work(tx: Transaction) -> bool:
            if not tx.run(_DELETE_UNCHANGED, of_id=process_id, unchanged=until):
                return False
            self._delete(tx, process_id)
            return True

        return self._database.in_exclusive_transaction(work)

    def delete_leftovers(self, now: float) -> None:
        """Deletes what processes hold that are not known: those of an older gateway, for example. Also what nobody
        has given back although its time is over.
        """

        def work(tx: Transaction) -> None:
            tx.run(_LOSE_UNKNOWN, now=now)
            tx.run(_LOSE_ENDED, now=now)
            for statement in _DELETE_UNKNOWN:
                tx.run(statement)
            for statement in _DELETE_ENDED:
                tx.run(statement, now=now)
            tx.run(_DELETE_WISHES)
            tx.run(DELETE_OLD, now=now)
            tx.run(_COUNT_STREAMS)

        self._database.in_exclusive_transaction(work)

    def _delete(self, tx: Transaction, process_id: str) -> None:
        tx.run(_LOSE, of_process=process_id, now=self._database.now())
        if sum(tx.run(statement, of_process=process_id) for statement in _DELETE_LEFTOVERS):
            tx.run(_COUNT_STREAMS)
        tx.run(_DELETE, of_id=process_id)
