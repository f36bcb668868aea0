"""The conversations and who holds them. Holds no message text. Must never know when one may be continued."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.store.database import Database, Row
from app.store.dialects import listed, one_of, per_dialect


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """What is known of a conversation. ``chat_id`` is None until Kimi has opened a chat for it."""

    owner: str
    id: str
    model: str
    account_id: str | None
    upstream: str | None
    chat_id: str | None
    message_id: str | None
    system_digest: str | None
    turns: int
    created_at: float
    updated_at: float
    holder: str
    held_until: float


_conversations = sa.table(
    "conversations",
    sa.column("owner", sa.String),
    sa.column("id", sa.String),
    sa.column("model", sa.String),
    sa.column("account_id", sa.String),
    sa.column("upstream", sa.String),
    sa.column("chat_id", sa.String),
    sa.column("message_id", sa.String),
    sa.column("system_digest", sa.String),
    sa.column("turns", sa.Integer),
    sa.column("created_at", sa.Float),
    sa.column("updated_at", sa.Float),
    sa.column("holder", sa.String),
    sa.column("held_until", sa.Float),
)

_P = sa.bindparam

_HOLD = per_dialect(
    lambda insert: (
        insert(_conversations)
        .values(
            owner=_P("owner"),
            id=_P("id"),
            model=_P("model"),
            turns=0,
            created_at=_P("now"),
            updated_at=_P("now"),
            holder=_P("holder"),
            held_until=_P("until"),
        )
        .on_conflict_do_update(
            index_elements=["owner", "id"],
            set_={"holder": _P("holder"), "held_until": _P("until")},
            where=_conversations.c.held_until <= _P("now"),
        )
        .returning(*_conversations.c)
    )
)

_RENEW = (
    sa.update(_conversations)
    .where(one_of(_conversations.c.holder, "holders"), _conversations.c.held_until > 0)
    .values(held_until=_P("until"))
)

_THIS = (_conversations.c.owner == _P("of_owner"), _conversations.c.id == _P("of_id"))
_MINE = (*_THIS, _conversations.c.holder == _P("of_holder"))

_FIND = sa.select(*_conversations.c).where(*_THIS)
_DROP = sa.delete(_conversations).where(*_MINE)


@cache
def _save(names: tuple[str, ...]) -> sa.Update:
    """The statement that writes these columns; callers have few ways to name them."""
    return sa.update(_conversations).where(*_MINE).values({name: _P(name) for name in names})


class ConversationRows:
    """The table of conversations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hold(
        self, owner: str, conversation_id: str, model: str, holder: str, now: float, until: float
    ) -> ConversationRow | None:
        """Takes the conversation for one turn, making it if it is new; None while another holder has it."""
        return _row(
            self._database.row(
                _HOLD, owner=owner, id=conversation_id, model=model, holder=holder, now=now, until=until
            )
        )

    def renew_holds(self, holders: Sequence[str], until: float) -> None:
        self._database.run(_RENEW, holders=listed(holders), until=until)

    def save(self, owner: str, conversation_id: str, held_by: str, /, **values: Any) -> bool:
        """Writes columns of a conversation that ``held_by`` has; False if it has it no longer."""
        mine = {"of_owner": owner, "of_id": conversation_id, "of_holder": held_by}
        return self._database.run(_save(tuple(values)), **mine, **values) > 0

    def drop(self, owner: str, conversation_id: str, held_by: str) -> None:
        self._database.run(_DROP, of_owner=owner, of_id=conversation_id, of_holder=held_by)

    def find(self, owner: str, conversation_id: str) -> ConversationRow | None:
        return _row(self._database.row(_FIND, of_owner=owner, of_id=conversation_id))


def _row(row: Row | None) -> ConversationRow | None:
    return None if row is None else ConversationRow(**row)
