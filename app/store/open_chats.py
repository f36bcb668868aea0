"""The chats of stateless requests that stay open, so that a later request may continue in them: what was said in each
as digests, and which request has each of them. Holds no message text. Knows no policy: not which chat a request
continues, nor for how long a chat stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database, Row, Transaction
from app.store.dialects import per_dialect
from app.store.processes import is_alive
from app.store.tables import open_chat_turns, open_chats


@dataclass(frozen=True, slots=True)
class OpenChatRow:
    """An open chat; see ``tables.open_chats`` for the fields. ``is_held``: a request of a living process has it."""

    upstream: str
    chat_id: str
    owner: str
    account_id: str
    site: str
    turns: str
    last_turn: int
    used_at: float
    holder: str
    is_held: bool


@dataclass(frozen=True, slots=True)
class FoundTurn:
    """A turn of an open chat that a digest has led to."""

    chat: OpenChatRow
    number: int


@dataclass(frozen=True, slots=True)
class ChatState:
    """What changes with a turn: what was said, as JSON; the number of the last turn; and when that was."""

    turns: str
    last_turn: int
    used_at: float


@dataclass(frozen=True, slots=True)
class OldChat:
    """A chat that is not open any more, and is to be deleted."""

    upstream: str
    chat_id: str
    account_id: str


# More turns than that with the same digest are not looked at.
_MOST_FOUND = 16

_P = sa.bindparam

_IS_HELD = sa.and_(open_chats.c.holder != "", is_alive(open_chats.c.process_id))
_OF_CHAT = (open_chats.c.upstream == _P("of_upstream"), open_chats.c.chat_id == _P("of_chat_id"))
_OF_HOLDER = (*_OF_CHAT, open_chats.c.holder == _P("of_holder"))
_SHOWN = [c for c in open_chats.c if c.name != "process_id"]

_FIND = (
    sa.select(*_SHOWN, _IS_HELD.label("is_held"), open_chat_turns.c.number)
    .select_from(
        sa.join(
            open_chat_turns,
            open_chats,
            sa.and_(
                open_chats.c.upstream == open_chat_turns.c.upstream, open_chats.c.chat_id == open_chat_turns.c.chat_id
            ),
        )
    )
    .where(open_chat_turns.c.digest == _P("digest"))
    .order_by(open_chats.c.used_at.desc())
    .limit(_MOST_FOUND)
)
_GET = sa.select(*_SHOWN, _IS_HELD.label("is_held")).where(*_OF_CHAT)
# What was said in it must be as it was read. The same holder again: its first try was committed, and its connection
# was lost before the result came.
_TAKE = (
    sa.update(open_chats)
    .where(
        *_OF_CHAT,
        open_chats.c.last_turn == _P("of_last_turn"),
        sa.or_(
            sa.and_(open_chats.c.holder == _P("of_holder"), sa.not_(_IS_HELD)), open_chats.c.holder == _P("holder")
        ),
    )
    .values(holder=_P("holder"), process_id=_P("process_id"), used_at=_P("used_at"))
)
_RELEASE = sa.update(open_chats).where(*_OF_HOLDER).values(holder="")
_ADD = per_dialect(
    lambda insert: (
        insert(open_chats)
        .values({column: _P(column.name) for column in open_chats.c})
        .on_conflict_do_update(
            index_elements=["upstream", "chat_id"],
            set_={name: _P(name) for name in ("turns", "last_turn", "used_at", "holder")},
        )
    )
)
_ADVANCE = (
    sa.update(open_chats)
    .where(*_OF_HOLDER)
    .values(turns=_P("turns"), last_turn=_P("last_turn"), used_at=_P("used_at"), holder="")
)
_AMEND = (
    sa.update(open_chats)
    .where(*_OF_CHAT, open_chats.c.last_turn == _P("of_last_turn"), open_chats.c.holder == "")
    .values(turns=_P("turns"))
)
_DELETE = sa.delete(open_chats).where(*_OF_CHAT)
_TURN_KEY = ["upstream", "chat_id", "number"]
_ADD_TURN = per_dialect(
    lambda insert: (
        insert(open_chat_turns)
        .values({column: _P(column.name) for column in open_chat_turns.c})
        .on_conflict_do_update(index_elements=_TURN_KEY, set_={"digest": _P("digest")})
    )
)
_TURNS_OF_CHAT = (
    open_chat_turns.c.upstream == _P("of_upstream"),
    open_chat_turns.c.chat_id == _P("of_chat_id"),
)
_DELETE_TURN = sa.delete(open_chat_turns).where(*_TURNS_OF_CHAT, open_chat_turns.c.number == _P("of_number"))
_DELETE_TURNS = sa.delete(open_chat_turns).where(*_TURNS_OF_CHAT)

_OLD = (open_chats.c.upstream, open_chats.c.chat_id, open_chats.c.account_id)
_COUNT_OF_OWNER = sa.select(sa.func.count().label("chats")).where(open_chats.c.owner == _P("of_owner"))
_OLDEST_OF_OWNER = (
    sa.select(*_OLD)
    .where(open_chats.c.owner == _P("of_owner"), sa.not_(_IS_HELD))
    .order_by(open_chats.c.used_at)
    .limit(_P("most"))
)
_UNUSED = (
    sa.select(*_OLD)
    .where(open_chats.c.used_at < _P("before"), sa.not_(_IS_HELD))
    .order_by(open_chats.c.used_at)
    .limit(_P("most"))
)


class OpenChatRows:
    """The tables ``open_chats`` and ``open_chat_turns``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, digest: str) -> list[FoundTurn]:
        """The turns with this digest, those of the chats that were used last first."""
        return [FoundTurn(_row(row), row["number"]) for row in self._database.rows(_FIND, digest=digest)]

    def get(self, upstream: str, chat_id: str) -> OpenChatRow | None:
        row = self._database.row(_GET, of_upstream=upstream, of_chat_id=chat_id)
        return None if row is None else _row(row)

    def take(self, chat: OpenChatRow, holder: str, process_id: str, now: float) -> bool:
        """Gives the chat to one request, unless another one has it, or has changed it. ``holder``: a random id of the
        request."""
        as_read = {"of_last_turn": chat.last_turn, "of_holder": chat.holder}
        values = {"holder": holder, "process_id": process_id, "used_at": now}
        return self._database.run(_TAKE, **_of(chat.upstream, chat.chat_id), **as_read, **values) > 0

    def release(self, upstream: str, chat_id: str, holder: str) -> None:
        """The request does not have the chat any more, which is as it was. Safe to call again."""
        self._database.run(_RELEASE, **_of(upstream, chat_id), of_holder=holder)

    def add(self, tx: Transaction, row: OpenChatRow, digest: str) -> None:
        """Adds a chat that no request has. ``digest``: of its last turn."""
        values = {column.name: getattr(row, column.name) for column in _SHOWN}
        tx.run(_ADD, **values, process_id="")
        self._add_turn(tx, row.upstream, row.chat_id, row.last_turn, digest)

    def advance(
        self, tx: Transaction, chat: OpenChatRow, holder: str, state: ChatState, digest: str, dropped: Sequence[int]
    ) -> bool:
        """One more turn, with this digest; the chat is free again. ``dropped``: turns that are to be found no more.
        False if ``holder`` does not have the chat."""
        which = {**_of(chat.upstream, chat.chat_id), "of_holder": holder}
        values = {name: getattr(state, name) for name in ChatState.__slots__}
        if not tx.run(_ADVANCE, **which, **values):
            return False
        self._add_turn(tx, chat.upstream, chat.chat_id, state.last_turn, digest)
        for number in dropped:
            tx.run(_DELETE_TURN, **_of(chat.upstream, chat.chat_id), of_number=number)
        return True

    def amend(self, tx: Transaction, upstream: str, chat_id: str, number: int, turns: str, digest: str) -> bool:
        """Other digests for the last turn. False if the chat has changed since, or a request has it."""
        if not tx.run(_AMEND, **_of(upstream, chat_id), of_last_turn=number, turns=turns):
            return False
        self._add_turn(tx, upstream, chat_id, number, digest)
        return True

    def delete(self, tx: Transaction, upstream: str, chat_id: str) -> bool:
        """The chat is not open any more. Returns whether it was."""
        tx.run(_DELETE_TURNS, **_of(upstream, chat_id))
        return tx.run(_DELETE, **_of(upstream, chat_id)) > 0

    def delete_beyond(self, tx: Transaction, owner: str, kept: int, most: int) -> list[OldChat]:
        """Deletes chats of an API key until ``kept`` are left; ``most`` at a time. Those that were not used for
        longest go first. Those that a request has count, but are left alone."""
        row = tx.row(_COUNT_OF_OWNER, of_owner=owner)
        beyond = row["chats"] - kept if row is not None else 0
        if beyond <= 0:
            return []
        return self._delete_all(tx, tx.rows(_OLDEST_OF_OWNER, of_owner=owner, most=min(beyond, most)))

    def delete_unused(self, tx: Transaction, before: float, most: int) -> list[OldChat]:
        """Deletes those that were last used before ``before``, ``most`` at a time; those that a request has are left
        alone."""
        return self._delete_all(tx, tx.rows(_UNUSED, before=before, most=most))

    def _delete_all(self, tx: Transaction, rows: Sequence[Row]) -> list[OldChat]:
        old = [OldChat(**row) for row in rows]
        return [chat for chat in old if self.delete(tx, chat.upstream, chat.chat_id)]

    @staticmethod
    def _add_turn(tx: Transaction, upstream: str, chat_id: str, number: int, digest: str) -> None:
        tx.run(_ADD_TURN, upstream=upstream, chat_id=chat_id, number=number, digest=digest)


def _of(upstream: str, chat_id: str) -> dict[str, str]:
    return {"of_upstream": upstream, "of_chat_id": chat_id}


def _row(row: Row) -> OpenChatRow:
    return OpenChatRow(**{name: row[name] for name in OpenChatRow.__slots__})
