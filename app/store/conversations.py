"""The conversations and who holds them. Holds no message text. Must never know when one may be continued."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.store.database import Database, Row, Transaction
from app.store.dialects import per_dialect
from app.store.processes import lives
from app.store.tables import conversations, transcripts


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
    process_id: str


_P = sa.bindparam

_IS_HELD = sa.and_(conversations.c.held_until > _P("now"), lives(conversations.c.process_id))
# Also where the same holder asks again: it may not know that it has got it.
_IS_FREE = sa.or_(sa.not_(_IS_HELD), conversations.c.holder == _P("holder"))

_HOLD = per_dialect(
    lambda insert: (
        insert(conversations)
        .values(
            owner=_P("owner"),
            id=_P("id"),
            model=_P("model"),
            turns=0,
            created_at=_P("now"),
            updated_at=_P("now"),
            holder=_P("holder"),
            held_until=_P("until"),
            process_id=_P("process_id"),
        )
        .on_conflict_do_update(
            index_elements=["owner", "id"],
            set_={"holder": _P("holder"), "held_until": _P("until"), "process_id": _P("process_id")},
            where=_IS_FREE,
        )
        .returning(*conversations.c)
    )
)

_THIS = (conversations.c.owner == _P("of_owner"), conversations.c.id == _P("of_id"))
_MINE = (*_THIS, conversations.c.holder == _P("of_holder"))

_FIND = sa.select(*conversations.c).where(*_THIS)
_DROP = sa.delete(conversations).where(*_MINE).returning(*conversations.c)
_HELD = sa.select(sa.literal(1).label("held")).where(*_THIS, _IS_HELD)
_COUNT = sa.select(sa.func.count().label("count")).where(conversations.c.owner == _P("of_owner"))
_DROP_UNUSED = (
    sa.delete(conversations)
    .where(
        sa.tuple_(conversations.c.owner, conversations.c.id).in_(
            sa.select(conversations.c.owner, conversations.c.id)
            .where(conversations.c.updated_at < _P("before"), sa.not_(_IS_HELD))
            .order_by(conversations.c.updated_at)
            .limit(_P("most"))
        ),
        conversations.c.updated_at < _P("before"),
        sa.not_(_IS_HELD),
    )
    .returning(*conversations.c)
)
_DROP_TRANSCRIPT = sa.delete(transcripts).where(
    transcripts.c.owner == _P("of_owner"), transcripts.c.conversation_id == _P("of_id")
)


@cache
def _save(names: tuple[str, ...]) -> sa.Update:
    """The statement that writes these columns; callers have few ways to name them."""
    return sa.update(conversations).where(*_MINE).values({name: _P(name) for name in names})


class ConversationRows:
    """The table of conversations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hold(
        self, owner: str, conversation_id: str, model: str, holder: str, process_id: str, now: float, until: float
    ) -> ConversationRow | None:
        """Takes the conversation for one turn, making it if it is new; None while another holder has it.

        It is held until ``until``, by a process that lives."""
        who = {"owner": owner, "id": conversation_id, "holder": holder, "process_id": process_id}
        return _row(self._database.row(_HOLD, **who, model=model, now=now, until=until))

    def is_held(self, row: ConversationRow, now: float) -> bool:
        return self._database.row(_HELD, of_owner=row.owner, of_id=row.id, now=now) is not None

    def count(self, owner: str) -> int:
        """How many the key has."""
        row = self._database.row(_COUNT, of_owner=owner)
        return int(row["count"]) if row else 0

    def drop_unused(self, tx: Transaction, before: float, now: float, most: int) -> list[ConversationRow]:
        """Drops conversations without a turn since ``before``, with what was said in them, and says which: at most
        so many, the oldest."""
        rows = [ConversationRow(**row) for row in tx.rows(_DROP_UNUSED, before=before, now=now, most=most)]
        for row in rows:
            tx.run(_DROP_TRANSCRIPT, of_owner=row.owner, of_id=row.id)
        return rows

    def save(self, owner: str, conversation_id: str, held_by: str, /, **values: Any) -> bool:
        """Writes columns of a conversation that ``held_by`` has; False if it has it no longer."""
        mine = {"of_owner": owner, "of_id": conversation_id, "of_holder": held_by}
        return self._database.run(_save(tuple(values)), **mine, **values) > 0

    def save_in(self, tx: Transaction, owner: str, conversation_id: str, held_by: str, /, **values: Any) -> bool:
        """``save`` as a part of a transaction."""
        mine = {"of_owner": owner, "of_id": conversation_id, "of_holder": held_by}
        return tx.run(_save(tuple(values)), **mine, **values) > 0

    def drop(self, tx: Transaction, owner: str, conversation_id: str, held_by: str) -> ConversationRow | None:
        """Drops a conversation that ``held_by`` has, with what was said in it, and says which."""
        row = _row(tx.row(_DROP, of_owner=owner, of_id=conversation_id, of_holder=held_by))
        if row is not None:
            tx.run(_DROP_TRANSCRIPT, of_owner=owner, of_id=conversation_id)
        return row

    def find(self, owner: str, conversation_id: str) -> ConversationRow | None:
        return _row(self._database.row(_FIND, of_owner=owner, of_id=conversation_id))


def _row(row: Row | None) -> ConversationRow | None:
    return None if row is None else ConversationRow(**row)
