"""The Kimi accounts, as all workers know them. Knows no policy: not which account may be used, nor why."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from app.store.database import Database, Row, Transaction
from app.store.dialects import listed, one_of, per_dialect
from app.store.leases import ALL_ACCOUNTS, REJECTED, WHOLE_ACCOUNT, Cooldown
from app.store.tables import accounts, cooldowns

_P = sa.bindparam

_ADD = per_dialect(
    lambda insert: (
        insert(accounts)
        .values(id=_P("id"), last_turn=0, next_at=0.0, streams=0, seen_at=_P("now"))
        .on_conflict_do_update(index_elements=["id"], set_={"seen_at": _P("now")})
    )
)
_SEE = sa.update(accounts).where(one_of(accounts.c.id, "ids")).values(seen_at=_P("now"))
_DELETE_UNSEEN = sa.delete(accounts).where(
    accounts.c.id.in_(
        sa.select(accounts.c.id).where(accounts.c.seen_at < _P("before"), accounts.c.streams == 0).limit(_P("most"))
    )
)
_DELETE_COOLDOWNS = sa.delete(cooldowns).where(
    cooldowns.c.account_id != ALL_ACCOUNTS, cooldowns.c.account_id.not_in(sa.select(accounts.c.id))
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
_MODEL_COOLDOWNS = (
    sa.select(*cooldowns.c)
    .where(cooldowns.c.scope != WHOLE_ACCOUNT, cooldowns.c.until > _P("now"))
    .order_by(cooldowns.c.account_id, cooldowns.c.scope)
)

_ALL = sa.select(accounts.c.id, accounts.c.streams)


class AccountRows:
    """The table ``accounts``. The streams that run on an account are in ``leases``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, ids: Sequence[str], now: float) -> None:
        """A gateway has these."""
        if self._database.run(_SEE, ids=listed(ids), now=now) < len(set(ids)):
            self._database.in_exclusive_transaction(lambda tx: [tx.run(_ADD, id=id_, now=now) for id_ in ids])

    def delete_unseen(self, before: float, most: int) -> int:
        """Deletes accounts that no gateway has had since ``before``, at most so many, with their
        cooldowns. Returns how many. Their token pairs stay.
        """
        deleted = self._database.run(_DELETE_UNSEEN, before=before, most=most)
        if deleted:
            self._database.run(_DELETE_COOLDOWNS)
        return deleted

    def all(self) -> list[Row]:
        """``id`` and ``streams`` of all accounts, see ``tables.accounts``."""
        return self._database.rows(_ALL)

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

    def model_cooldowns(self, now: float) -> list[tuple[str, str, Cooldown]]:
        """Account id, model and cooldown, for the models that an account is not asked for now."""
        return [
            (row["account_id"], row["scope"], Cooldown(row["until"], row["strikes"], row["cause"]))
            for row in self._database.rows(_MODEL_COOLDOWNS, now=now)
        ]
