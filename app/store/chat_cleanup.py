"""The Kimi chats that are to be deleted. Knows neither why nor how a chat is deleted."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database, Row, Transaction
from app.store.dialects import listed, one_of, per_dialect
from app.store.tables import pending_deletions


@dataclass(frozen=True, slots=True)
class PendingDeletion:
    """A Kimi chat that is to be deleted. ``tries``: including the one that has just been claimed."""

    upstream: str
    chat_id: str
    account_id: str
    tries: int


_P = sa.bindparam

_ADD = per_dialect(
    lambda insert: (
        insert(pending_deletions)
        .values({column: _P(column.name) for column in pending_deletions.c})
        .on_conflict_do_update(
            index_elements=["upstream", "chat_id"], set_={"due_at": _P("due_at"), "tries": _P("tries")}
        )
    )
)

_CLAIM = (
    sa.update(pending_deletions)
    .where(
        pending_deletions.c.due_at <= _P("now"),
        pending_deletions.c.chat_id
        == sa.select(pending_deletions.c.chat_id)
        .where(
            pending_deletions.c.due_at <= _P("now"),
            # Not the column itself, or SQLite reads all chats of an upstream instead of those that are due.
            one_of(pending_deletions.c.upstream.concat(""), "upstreams"),
            one_of(pending_deletions.c.account_id, "accounts"),
        )
        .order_by(pending_deletions.c.due_at)
        .limit(1)
        # PostgreSQL skips a row that another worker is claiming. SQLite has one writer at a time.
        .with_for_update(skip_locked=True)
        .scalar_subquery(),
    )
    .values(due_at=_P("again_at"), tries=pending_deletions.c.tries + 1)
    .returning(
        pending_deletions.c.upstream,
        pending_deletions.c.chat_id,
        pending_deletions.c.account_id,
        pending_deletions.c.tries,
    )
)

_SUMMARY = sa.select(
    sa.func.count().label("chats"), sa.func.min(pending_deletions.c.due_at).label("first_due_at")
).select_from(pending_deletions)

_OF_CHAT = (
    pending_deletions.c.upstream == _P("of_upstream"),
    pending_deletions.c.chat_id == _P("of_chat_id"),
)

_MAKE_DUE = (
    sa.update(pending_deletions).where(*_OF_CHAT, pending_deletions.c.due_at > _P("now")).values(due_at=_P("now"))
)

_BY_ACCOUNT = sa.select(
    pending_deletions.c.account_id,
    sa.func.count().label("chats"),
    sa.func.min(pending_deletions.c.due_at).label("oldest"),
).group_by(pending_deletions.c.account_id)

_DELETE = sa.delete(pending_deletions).where(*_OF_CHAT)


class PendingDeletionRows:
    """The table ``litter``: one row per chat that is to be deleted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, upstream: str, chat_id: str, account_id: str, due_at: float) -> None:
        """Adds a chat, or sets a new time for one that is there already."""
        self._database.run(_ADD, upstream=upstream, chat_id=chat_id, account_id=account_id, due_at=due_at, tries=0)

    def add_in(self, tx: Transaction, upstream: str, chat_id: str, account_id: str, due_at: float) -> None:
        """``add`` as a part of a transaction."""
        tx.run(_ADD, upstream=upstream, chat_id=chat_id, account_id=account_id, due_at=due_at, tries=0)

    def make_due(self, chats: Sequence[tuple[str, str]], now: float) -> None:
        """These chats, each (upstream, id), are to be deleted now by whoever finds them."""

        def make_due(tx: Transaction) -> None:
            for upstream, chat_id in chats:
                tx.run(_MAKE_DUE, of_upstream=upstream, of_chat_id=chat_id, now=now)

        self._database.in_exclusive_transaction(make_due)

    def claim(
        self, upstreams: Sequence[str], account_ids: Sequence[str], now: float, again_at: float
    ) -> PendingDeletion | None:
        """One chat of these upstreams and accounts that is due, or None.

        It is due again at ``again_at``, so no other worker claims it meanwhile.
        """
        which = {"upstreams": listed(upstreams), "accounts": listed(account_ids)}
        row = self._database.row(_CLAIM, **which, now=now, again_at=again_at)
        return None if row is None else PendingDeletion(**row)

    def summary(self) -> tuple[int, float | None]:
        """How many chats are to be deleted, and when the first of them is due."""
        row = self._database.row(_SUMMARY)
        return (0, None) if row is None else (int(row["chats"]), row["first_due_at"])

    def by_account(self) -> list[Row]:
        """Of each account that has any: ``account_id``, number of its ``chats``, and when the ``oldest`` is due."""
        return self._database.rows(_BY_ACCOUNT)

    def postpone(self, row: PendingDeletion, due_at: float) -> None:
        """A try has failed. The row is added if it is not there: the chat could not be noted before."""
        values = {name: getattr(row, name) for name in PendingDeletion.__slots__}
        self._database.run(_ADD, **values, due_at=due_at)

    def delete(self, upstream: str, chat_id: str) -> None:
        """Removes the row: the chat is gone, or is to stay."""
        self._database.run(_DELETE, of_upstream=upstream, of_chat_id=chat_id)

    def delete_all(self, chats: Sequence[tuple[str, str]]) -> None:
        """``delete`` for several chats, each an upstream and a chat id, in one transaction."""
        rows: list[Row] = [{"of_upstream": upstream, "of_chat_id": chat_id} for upstream, chat_id in sorted(chats)]
        self._database.in_transaction(lambda tx: tx.run_many(_DELETE, rows))

    def delete_in(self, tx: Transaction, upstream: str, chat_id: str) -> None:
        """``delete`` as a part of a transaction."""
        tx.run(_DELETE, of_upstream=upstream, of_chat_id=chat_id)
