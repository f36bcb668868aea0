"""The Kimi accounts, as all workers know them. Knows no policy: not which account may be used, nor why."""

from collections.abc import Sequence

import sqlalchemy as sa

from app.store.database import Database
from app.store.dialects import per_dialect
from app.store.tables import accounts

_P = sa.bindparam

_ADD = per_dialect(
    lambda insert: insert(accounts).values(id=_P("id"), last_turn=0, next_at=0.0).on_conflict_do_nothing()
)
_SET_REFUSED = sa.update(accounts).where(accounts.c.id == _P("of_id")).values(refused=_P("refused"))
_REFUSED = sa.select(accounts.c.id, accounts.c.refused).where(accounts.c.refused.is_not(None))


class AccountRows:
    """The table ``accounts``. The streams that run on an account are in ``leases``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, ids: Sequence[str]) -> None:
        for account_id in ids:
            self._database.run(_ADD, id=account_id)

    def set_refused(self, account_id: str, token: str) -> None:
        """Kimi has rejected the token with this digest."""
        self._database.run(_SET_REFUSED, of_id=account_id, refused=token)

    def refused(self) -> dict[str, str]:
        """Account id → digest of the token that Kimi has rejected, for those that have one."""
        return {row["id"]: row["refused"] for row in self._database.rows(_REFUSED)}
