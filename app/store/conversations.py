"""The conversations and which turn has each of them. Holds no message text. Knows no policy: not when a conversation
may be continued.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import sqlalchemy as sa

from app.store.database import Database, Row, Transaction
from app.store.dialects import listed_pairs, one_pair_of, per_dialect
from app.store.processes import is_alive
from app.store.tables import conversations, transcripts

# How a conversation began. ``named``: its client chose the id. ``response``: Responses opened it, and it was never
# continued. ``responses``: the same, and it was continued.
Kind = Literal["named", "response", "responses"]


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """A conversation; see ``tables.conversations`` for the fields."""

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
    site: str | None
    tools: str | None
    known_turns: str | None
    kind: Kind


# Owner and id of a conversation.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Hold:
    """The turn that has a conversation, and its process."""

    holder: str
    process_id: str


_P = sa.bindparam

# Later than any time.
_NEVER = 1e18

_IS_HELD = sa.and_(conversations.c.held_until > 0, is_alive(conversations.c.process_id))
# A holder that asks again may not know that it has the conversation: its connection was lost before the result came.
_IS_FREE = sa.or_(sa.not_(_IS_HELD), conversations.c.holder == _P("holder"))

_ACQUIRE = per_dialect(
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
            kind=_P("kind"),
        )
        .on_conflict_do_update(
            index_elements=["owner", "id"],
            set_={"holder": _P("holder"), "held_until": _P("until"), "process_id": _P("process_id")},
            where=_IS_FREE,
        )
        .returning(*conversations.c)
    )
)

_OF_ID = (conversations.c.owner == _P("of_owner"), conversations.c.id == _P("of_id"))
_OF_HOLDER = (*_OF_ID, conversations.c.holder == _P("of_holder"))

_FIND = sa.select(*conversations.c).where(*_OF_ID)
_BEFORE_CURSOR = sa.or_(
    conversations.c.updated_at < _P("cursor_at"),
    sa.and_(
        conversations.c.updated_at == _P("cursor_at"),
        sa.tuple_(conversations.c.owner, conversations.c.id) > sa.tuple_(_P("cursor_owner"), _P("cursor_id")),
    ),
)
_LISTED = (
    sa.select(*conversations.c)
    .where(
        conversations.c.updated_at < _P("before"),
        _BEFORE_CURSOR,
        sa.or_(
            _P("search") == "", sa.func.substr(conversations.c.id, 1, sa.func.length(_P("search"))) == _P("search")
        ),
    )
    .order_by(conversations.c.updated_at.desc(), conversations.c.owner, conversations.c.id)
    .limit(_P("most"))
)
_DELETE = sa.delete(conversations).where(*_OF_HOLDER).returning(*conversations.c)
_HELD_AMONG = sa.select(
    conversations.c.owner, conversations.c.id, conversations.c.holder, conversations.c.process_id
).where(one_pair_of(conversations.c.owner, conversations.c.id, "keys"), _IS_HELD)
_RELEASE = sa.update(conversations).where(*_OF_HOLDER).values(held_until=0.0)
_COUNT = sa.select(sa.func.count().label("count")).select_from(
    sa.select(conversations.c.id).where(conversations.c.owner == _P("of_owner")).limit(_P("most")).subquery()
)
_UNUSED = (
    conversations.c.kind == _P("of_kind"),
    conversations.c.updated_at < _P("before"),
    # An older gateway that runs beside this one continues a conversation without saying so.
    sa.or_(conversations.c.kind != "response", conversations.c.turns <= 1),
    sa.not_(_IS_HELD),
)
_DELETE_UNUSED = (
    sa.delete(conversations)
    .where(
        sa.tuple_(conversations.c.owner, conversations.c.id).in_(
            sa.select(conversations.c.owner, conversations.c.id)
            .where(*_UNUSED)
            .order_by(conversations.c.updated_at)
            .limit(_P("most"))
        ),
        *_UNUSED,
    )
    .returning(*conversations.c)
)
_DELETE_TRANSCRIPT = sa.delete(transcripts).where(
    transcripts.c.owner == _P("of_owner"), transcripts.c.conversation_id == _P("of_id")
)


@cache
def _save(names: tuple[str, ...]) -> sa.Update:
    """The statement that writes these columns. There is one per combination of names, and callers use few."""
    return sa.update(conversations).where(*_OF_HOLDER).values({name: _P(name) for name in names})


class ConversationRows:
    """The table ``conversations``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(
        self,
        owner: str,
        conversation_id: str,
        model: str,
        kind: Kind,
        holder: str,
        process_id: str,
        now: float,
        until: float,
    ) -> ConversationRow | None:
        """Acquires the conversation for one turn, and creates it if it is new. None while another turn has it.

        ``kind``: of a new one. ``holder``: a random id of the turn, which has the conversation until it releases it,
        or until its process is dead. ``until``: when an older gateway takes it away from the turn.
        """
        who = {"owner": owner, "id": conversation_id, "holder": holder, "process_id": process_id}
        return _row(self._database.row(_ACQUIRE, **who, model=model, kind=kind, now=now, until=until))

    def held_among(self, keys: Iterable[Key]) -> dict[Key, Hold]:
        """Which of these conversations a turn has now, and which turn."""
        rows = self._database.rows(_HELD_AMONG, keys=listed_pairs(keys))
        return {(row["owner"], row["id"]): Hold(row["holder"], row["process_id"]) for row in rows}

    def release(self, owner: str, conversation_id: str, holder: str) -> None:
        """The turn does not have the conversation any more. Safe to call again."""
        self._database.run(_RELEASE, of_owner=owner, of_id=conversation_id, of_holder=holder)

    def count(self, owner: str, most: int) -> int:
        """How many conversations the API key has; ``most`` where it has more."""
        row = self._database.row(_COUNT, of_owner=owner, most=most)
        return int(row["count"]) if row else 0

    def delete_unused(self, tx: Transaction, kind: Kind, before: float, most: int) -> list[ConversationRow]:
        """Deletes conversations of this kind whose last turn was before ``before``, with their transcripts, and
        returns them: the oldest, ``most`` at a time.
        """
        rows = [ConversationRow(**row) for row in tx.rows(_DELETE_UNUSED, of_kind=kind, before=before, most=most)]
        for row in rows:
            tx.run(_DELETE_TRANSCRIPT, of_owner=row.owner, of_id=row.id)
        return rows

    def save(self, owner: str, conversation_id: str, held_by: str, /, **values: Any) -> bool:
        """Writes columns of a conversation. False if ``held_by`` does not have it any more."""
        which = {"of_owner": owner, "of_id": conversation_id, "of_holder": held_by}
        return self._database.run(_save(tuple(values)), **which, **values) > 0

    def save_in(self, tx: Transaction, owner: str, conversation_id: str, held_by: str, /, **values: Any) -> bool:
        """``save`` as a part of a transaction."""
        which = {"of_owner": owner, "of_id": conversation_id, "of_holder": held_by}
        return tx.run(_save(tuple(values)), **which, **values) > 0

    def delete(self, tx: Transaction, owner: str, conversation_id: str, held_by: str) -> ConversationRow | None:
        """Deletes a conversation with its transcript, and returns it. None if ``held_by`` does not have it."""
        row = _row(tx.row(_DELETE, of_owner=owner, of_id=conversation_id, of_holder=held_by))
        if row is not None:
            tx.run(_DELETE_TRANSCRIPT, of_owner=owner, of_id=conversation_id)
        return row

    def listed(
        self, search: str, before: float | None, cursor: tuple[float, str, str] | None, most: int
    ) -> list[ConversationRow]:
        """Conversations of all API keys, the last used first. ``search``: how the id begins. ``before``: their last
        turn was earlier. ``cursor``: the last turn, owner and id of the last one of the page before."""
        at, owner, id_ = cursor or (_NEVER, "", "")
        values = {"cursor_at": at, "cursor_owner": owner, "cursor_id": id_, "most": most}
        rows = self._database.rows(_LISTED, search=search, before=_NEVER if before is None else before, **values)
        return [ConversationRow(**row) for row in rows]

    def find(self, owner: str, conversation_id: str) -> ConversationRow | None:
        return _row(self._database.row(_FIND, of_owner=owner, of_id=conversation_id))


def _row(row: Row | None) -> ConversationRow | None:
    return None if row is None else ConversationRow(**row)
