"""The line of accounts: whose turn was longest ago, over all workers. Must never know who may be used, and why."""

from collections.abc import Sequence

import sqlalchemy as sa

from app.store.database import Database
from app.store.dialects import listed, one_of, per_dialect

_accounts = sa.table("accounts", sa.column("id", sa.String), sa.column("last_turn", sa.BigInteger))

_P = sa.bindparam

_ADD = per_dialect(lambda insert: insert(_accounts).values(id=_P("id"), last_turn=0).on_conflict_do_nothing())

_NEXT = (
    sa.update(_accounts)
    .where(
        _accounts.c.id
        == sa.select(_accounts.c.id)
        .where(one_of(_accounts.c.id, "ids"))
        .order_by(_accounts.c.last_turn, _accounts.c.id)
        .limit(1)
        .scalar_subquery()
    )
    .values(last_turn=sa.select(sa.func.max(_accounts.c.last_turn)).scalar_subquery() + 1)
    .returning(_accounts.c.id)
)


class AccountRows:
    """The accounts in their line."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, ids: Sequence[str]) -> None:
        for account_id in ids:
            self._database.run(_ADD, id=account_id)

    def next(self, ids: Sequence[str]) -> str:
        """The one of ``ids`` whose turn is longest ago; it goes to the end of the line. ``ids``: not empty."""
        row = self._database.row(_NEXT, ids=listed(ids))
        assert row is not None, "add was not called"
        return str(row["id"])
