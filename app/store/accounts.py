"""The Kimi accounts, as all workers know them. Knows no policy: not which account may be used, nor why."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.dialects import per_dialect
from app.store.leases import REJECTED, WHOLE_ACCOUNT, Cooldown
from app.store.tables import accounts, cooldowns

_P = sa.bindparam

_ADD = per_dialect(
    lambda insert: insert(accounts).values(id=_P("id"), last_turn=0, next_at=0.0).on_conflict_do_nothing()
)
_SET_REFUSED = (
    sa.update(accounts)
    .where(accounts.c.id == _P("of_id"), accounts.c.refused.is_distinct_from(_P("refused")))
    .values(refused=_P("refused"))
)
_COOLDOWNS = (
    sa.select(accounts.c.id, accounts.c.refused, cooldowns.c.until, cooldowns.c.strikes, cooldowns.c.cause)
    .join(cooldowns, cooldowns.c.account_id == accounts.c.id)
    .where(cooldowns.c.scope == WHOLE_ACCOUNT, cooldowns.c.until > _P("now"))
)


class AccountRows:
    """The table ``accounts``. The streams that run on an account are in ``leases``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, ids: Sequence[str]) -> None:
        for account_id in ids:
            self._database.run(_ADD, id=account_id)

    def set_refused(self, tx: Transaction, account_id: str, token: str) -> bool:
        """Kimi has rejected the token with this digest. False if it had rejected the same one before."""
        return tx.run(_SET_REFUSED, of_id=account_id, refused=token) > 0

    def clear_refused(self, account_id: str) -> None:
        """Kimi has not rejected the token that the account has now."""
        self._database.run(_SET_REFUSED, of_id=account_id, refused=None)

    def cooldowns(self, tokens: Mapping[str, str], now: float) -> dict[str, Cooldown]:
        """Account id → the cooldown of the whole account, for those that have one now. ``tokens``: account id →
        digest of its token; a rejection of another one does not count."""
        return {
            row["id"]: Cooldown(row["until"], row["strikes"], row["cause"])
            for row in self._database.rows(_COOLDOWNS, now=now)
            if row["cause"] != REJECTED or row["refused"] == tokens.get(row["id"])
        }
