"""Streams that have ended before Kimi named the chat which they may have opened. Knows not how such a chat is found.

A lease of a stream that opens a chat holds digests of what it asks. Where the stream ends without its chat being
known, because its process is dead or its connection is lost, they become a row here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.store.database import Database
from app.store.dialects import listed, one_of, per_dialect
from app.store.tables import conversations, leases, lost_chats, open_chats, pending_deletions

# A chat is looked for so long after its stream has ended: Kimi may still be opening it. Seconds.
FIRST_SEARCH_AFTER_S = 5.0
# What nobody has found by then is forgotten. Seconds.
MAX_AGE_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class LostChat:
    """``question``: digests of what the stream has asked. ``tries``: the searches that have begun."""

    id: str
    account_id: str
    question: str
    began_at: float
    lost_at: float
    tries: int


_P = sa.bindparam

_others = lost_chats.alias("others")


def _due_at(account_id: Any) -> Any:
    """With those of its account that wait already: an account's list is not asked for more often, however many
    streams fail."""
    theirs = sa.select(sa.func.max(_others.c.due_at)).where(_others.c.account_id == account_id).scalar_subquery()
    first = _P("now", type_=sa.Float) + FIRST_SEARCH_AFTER_S
    return sa.case((theirs > first, theirs), else_=first)


_ADD = per_dialect(
    lambda insert: (
        insert(lost_chats)
        .values(
            {column: _P(column.name) for column in lost_chats.c if column.name not in ("lost_at", "due_at", "tries")}
            | {"lost_at": _P("now"), "due_at": _due_at(_P("account_id")), "tries": 0}
        )
        .on_conflict_do_nothing(index_elements=["id"])
    )
)


def add_leases(*where: sa.ColumnElement[bool]) -> sa.Insert:
    """The statement that adds the streams whose leases are about to be deleted; with the parameter ``now``."""
    columns = ("id", "account_id", "question", "began_at", "lost_at", "due_at", "tries")
    found = sa.select(
        leases.c.id,
        leases.c.account_id,
        leases.c.question,
        leases.c.started_at,
        _P("now", type_=sa.Float),
        _due_at(leases.c.account_id),
        sa.literal(0),
    ).where(leases.c.question.is_not(None), leases.c.id.not_in(sa.select(lost_chats.c.id)), *where)
    return sa.insert(lost_chats).from_select(columns, found)


_due_account = (
    sa.select(lost_chats.c.account_id)
    .where(lost_chats.c.due_at <= _P("now"), one_of(lost_chats.c.account_id, "accounts"))
    .order_by(lost_chats.c.due_at)
    .limit(1)
    .scalar_subquery()
)
_CLAIM = (
    sa.update(lost_chats)
    .where(lost_chats.c.account_id == _due_account)
    .values(due_at=_P("again_at"), tries=lost_chats.c.tries + 1)
    .returning(*(lost_chats.c[name] for name in LostChat.__slots__))
)
_FIRST_DUE = sa.select(sa.func.min(lost_chats.c.due_at).label("due_at")).where(
    one_of(lost_chats.c.account_id, "accounts")
)
_POSTPONE = sa.update(lost_chats).where(lost_chats.c.account_id == _P("of_account")).values(due_at=_P("again_at"))
_DELETE = sa.delete(lost_chats).where(one_of(lost_chats.c.id, "ids"))
# Those whose accounts are gone are never claimed.
DELETE_OLD = sa.delete(lost_chats).where(lost_chats.c.lost_at < _P("now") - MAX_AGE_S)
_QUESTIONS = sa.select(leases.c.question).where(
    leases.c.account_id == _P("of_account"),
    leases.c.question.is_not(None),
    leases.c.started_at > _P("since"),
)
_KNOWN = sa.union(
    *(
        sa.select(table.c.chat_id).where(
            one_of(table.c.upstream, "upstreams"), one_of(table.c.chat_id, "chat_ids"), *where
        )
        for table, where in (
            (pending_deletions, ()),
            (open_chats, ()),
            # By an index, or all conversations would be read.
            (conversations, (conversations.c.updated_at >= _P("since"),)),
        )
    )
)


class LostChatRows:
    """The table ``lost_chats``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, lease_id: str, account_id: str, question: str, began_at: float) -> None:
        """The stream of this lease has ended, and its chat is not known. Safe to call again."""
        values = {"id": lease_id, "account_id": account_id, "question": question, "began_at": began_at}
        self._database.run(_ADD, **values, now=self._database.now())

    def claim(self, account_ids: Sequence[str], now: float, again_at: float) -> list[LostChat]:
        """All of one of these accounts, if one of them is due. They are due again at ``again_at``, so no other
        process claims them meanwhile."""

        rows = self._database.in_exclusive_transaction(
            lambda tx: tx.rows(_CLAIM, accounts=listed(account_ids), now=now, again_at=again_at)
        )
        return [LostChat(**row) for row in rows]

    def first_due_at(self, account_ids: Sequence[str]) -> float | None:
        """When the first of these accounts is due, if any is."""
        row = self._database.row(_FIRST_DUE, accounts=listed(account_ids))
        return None if row is None else row["due_at"]

    def postpone(self, account_id: str, again_at: float) -> None:
        """All of an account are due then."""
        self._database.run(_POSTPONE, of_account=account_id, again_at=again_at)

    def delete(self, ids: Sequence[str]) -> None:
        self._database.run(_DELETE, ids=listed(ids))

    def questions_of_running(self, account_id: str, since: float) -> list[str]:
        """What the streams ask that run on an account since then and have opened chats, or are about to."""
        return [row["question"] for row in self._database.rows(_QUESTIONS, of_account=account_id, since=since)]

    def known(self, upstreams: Sequence[str], chat_ids: Sequence[str], since: float) -> set[str]:
        """Those of these chats that the gateway knows: they belong to a conversation, stay open, or will be deleted.
        ``since``: they were opened later."""
        which = {"upstreams": listed(upstreams), "chat_ids": listed(chat_ids)}
        rows = self._database.rows(_KNOWN, **which, since=since)
        return {row["chat_id"] for row in rows}
