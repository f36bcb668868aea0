"""The chats of stateless requests that stay open for a while, so that the next request continues in them.

    take      the chat whose end the request repeats; no other request has it then
    complete  the answer is complete: the chat is as long as the client knows it, and free
    release   it is not: the chat is free as it was, or is deleted

A chat is deleted when it was not used for some time, or when its API key has too many. Whatever stands in the way,
the store's failures too, only means that a request opens a new chat. Must never know any upstream's JSON.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from app.chat import Caller, ChatRequest, KnownTools, Message, ToolCall, text_message
from app.concurrency.periodic import every, in_steps
from app.conversations.chat_cleanup import ChatCleanup
from app.conversations.recognition import Reader, Said, Turn, Turns
from app.settings.config import ContinueChats
from app.store import Store, StoreError, Transaction
from app.store.open_chats import ChatState, FoundTurn, OldChat, OpenChatRow
from app.store.process_lease import ProcessLease

log = logging.getLogger(__name__)

# How long the store is tried again, at the beginning and at the end of an answer. Seconds.
_TRY_FOR_S = 1.0
# How often it is looked for chats that were not used for long (seconds, at most), and how many are deleted at a time.
_EXPIRE_EVERY_S = 60.0
_EXPIRE_BATCH = 20


@dataclass(frozen=True, slots=True)
class ContinueLimits:
    # How long a chat stays open without being used. Seconds.
    idle_s: float
    # Chats of one API key.
    max_count: int


@dataclass(frozen=True, slots=True)
class TakenChat:
    """An open chat that a request has, and the turn in it that the request follows."""

    row: OpenChatRow
    turns: Turns
    turn: Turn
    # It stands at the end of its branch.
    is_last: bool
    holder: str

    @property
    def known_tools(self) -> KnownTools | None:
        return self.turn.known_tools

    def unsent(self, messages: Sequence[Message], instructions: str) -> tuple[Message, ...]:
        """What the chat has not read: what follows the last answer; before it the instructions, where they are not
        those that it has read. ``instructions``: their digest."""
        answered = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=-1)
        new = [m for m in messages[answered + 1 :] if m.role not in ("system", "developer")]
        if instructions == self.turn.instructions:
            return tuple(new)
        return (*(m for m in messages if m.role in ("system", "developer")), *new)


@dataclass(frozen=True, slots=True)
class AnsweredIn:
    """The chat that an answer stands in."""

    upstream: str
    chat_id: str
    message_id: str | None
    account_id: str
    site: str


class OpenChats:
    """The open chats of all API keys. One object per process."""

    def __init__(
        self,
        store: Store,
        process_lease: ProcessLease,
        cleanup: ChatCleanup,
        limits: ContinueLimits,
        mode: ContinueChats,
        *,
        keeps_chats: bool,
    ) -> None:
        """``mode``: whether chats stay open: never (0), unless the client says that nothing may be kept (1), or also
        then (all). ``keeps_chats``: no chat is deleted at the upstream; it is only forgotten."""
        self._store = store
        self._process_lease = process_lease
        self._cleanup = cleanup
        self._limits = limits
        self._mode = mode
        self._keeps_chats = keeps_chats

    def thread(self, request: ChatRequest, caller: Caller) -> "Thread | None":
        """For a stateless request whose chat may stay open; None for others."""
        if self._mode == "0" or request.conversation_id is not None or not request.repeats_history:
            return None
        if request.stores_nothing and self._mode != "all":
            return None
        reader = Reader(self._store.digest_key, caller.owner, request.tools)
        said = reader.read(request)
        # An answer that is to go on, or a summary of what was said: the client will not repeat it as it is.
        return Thread(self, request, caller.owner, reader, said) if said.new else None

    def start_expiry(self) -> None:
        """Starts to delete chats that were not used for long: also those of earlier settings."""
        seconds = max(0.2, min(_EXPIRE_EVERY_S, self._limits.idle_s / 4))
        every(seconds, lambda: in_steps(self._delete_unused, _EXPIRE_BATCH), "open-chat-expiry")

    def find(self, said: Said) -> list[TakenChat]:
        """The chats that a request may continue, best first."""
        if said.pair is None or not self._process_lease.is_valid():
            return []
        with self._store.database.retrying_for(0):
            found = self._store.open_chats.find(said.pair)
        whole: list[TakenChat] = []
        ends: dict[str, list[TakenChat]] = {}
        for one in found:
            chat = _followed(one)
            if chat is None or (chat.turn.instructions and not said.instructions):
                # The chat has read instructions, and the request has none.
                continue
            if chat.turns.is_repeated(said, one.number):
                whole.append(chat)
            elif chat.turns.is_end_repeated(said, one.number):
                ends.setdefault(chat.turn.path, []).append(chat)
        # Several conversations that end alike: it is not known which one is meant.
        chats = whole or (next(iter(ends.values())) if len(ends) == 1 else [])
        chats.sort(key=lambda chat: not chat.is_last)
        return [chat for chat in chats if not chat.row.is_held]

    def take(self, chat: TakenChat) -> bool:
        """Gives the chat to the request, unless another one has it meanwhile."""
        store, row = self._store, chat.row
        try:
            # Another process, or a checkpoint, may hold SQLite's lock for a moment.
            with store.database.retrying_for(_TRY_FOR_S):
                return store.open_chats.take(row, chat.holder, self._process_lease.id, store.database.now())
        except StoreError as e:
            if e.may_have_run:
                self._process_lease.retry_later(partial(self.release, chat))
            raise

    def get(self, answered: AnsweredIn, number: int) -> TakenChat | None:
        """The chat, if the turn ``number`` is still its last one."""
        with self._store.database.retrying_for(0):
            row = self._store.open_chats.get(answered.upstream, answered.chat_id)
        if row is None or row.is_held or row.last_turn != number:
            return None
        return _followed(FoundTurn(row, number))

    def release(self, chat: TakenChat) -> None:
        """The chat is as it was."""
        self._store.open_chats.release(chat.row.upstream, chat.row.chat_id, chat.holder)

    def release_later(self, chat: TakenChat) -> None:
        self._process_lease.run_or_retry(partial(self.release, chat))

    def open(self, row: OpenChatRow, digest: str) -> None:
        """A chat that is noted for deletion stays open. Raises StoreError."""

        def work(tx: Transaction) -> list[OldChat]:
            self._store.open_chats.add(tx, row, digest)
            self._store.pending_deletions.delete_in(tx, row.upstream, row.chat_id)
            old = self._store.open_chats.delete_beyond(tx, row.owner, self._limits.max_count, _EXPIRE_BATCH)
            self._note(tx, old)
            return old

        with self._store.database.retrying_for(_TRY_FOR_S):
            self._discard(self._store.database.in_exclusive_transaction(work))

    def advance(self, chat: TakenChat, state: ChatState, digest: str, dropped: Sequence[int]) -> bool:
        """The chat has one more turn, and is free. False if another request has it. Raises StoreError."""
        with self._store.database.retrying_for(_TRY_FOR_S):
            return self._store.database.in_exclusive_transaction(
                lambda tx: self._store.open_chats.advance(tx, chat.row, chat.holder, state, digest, dropped)
            )

    def amend(self, answered: AnsweredIn, number: int, turns: Turns, digest: str) -> None:
        """The client was shown another answer than the last turn's. Raises StoreError."""
        with self._store.database.retrying_for(_TRY_FOR_S):
            self._store.database.in_exclusive_transaction(
                lambda tx: self._store.open_chats.amend(
                    tx, answered.upstream, answered.chat_id, number, turns.dump(), digest
                )
            )

    def forget(self, upstream: str, chat_id: str, account_id: str) -> None:
        """Nothing continues in the chat any more: it is deleted. Tried again later where the store fails."""
        old = OldChat(upstream, chat_id, account_id)

        def work(tx: Transaction) -> None:
            if self._store.open_chats.delete(tx, upstream, chat_id):
                self._note(tx, [old])

        self._process_lease.run_or_retry(lambda: self._store.database.in_exclusive_transaction(work))
        self._discard([old])

    @property
    def now(self) -> float:
        return self._store.database.now()

    def _delete_unused(self) -> int:
        before = self._store.database.now() - self._limits.idle_s

        def work(tx: Transaction) -> list[OldChat]:
            old = self._store.open_chats.delete_unused(tx, before, _EXPIRE_BATCH)
            self._note(tx, old)
            return old

        old = self._store.database.in_exclusive_transaction(work)
        self._discard(old)
        return len(old)

    def _note(self, tx: Transaction, old: Sequence[OldChat]) -> None:
        if self._keeps_chats:
            return
        now = self._store.database.now()
        for chat in old:
            self._store.pending_deletions.add_in(tx, chat.upstream, chat.chat_id, chat.account_id, now)

    def _discard(self, old: Sequence[OldChat]) -> None:
        if self._keeps_chats:
            return
        for chat in old:
            self._cleanup.discard(chat.upstream, chat.chat_id, chat.account_id)


class Thread:
    """The open chat of one stateless request: the one that it continues, or the one that it opens.

    A request may have two turns: the second one repairs the answer of the first. One turn runs at a time.
    """

    def __init__(self, chats: OpenChats, request: ChatRequest, owner: str, reader: Reader, said: Said) -> None:
        """``request``: as the client sent it."""
        self._chats = chats
        self._request = request
        self._owner = owner
        self._said = said
        self._reader = reader
        self._taken: TakenChat | None = None
        # Something may have been said in the chat that was taken.
        self._is_sent = False
        # The last turn, where its answer was complete: its chat, number and digests.
        self._completed: tuple[AnsweredIn, int, Turns] | None = None
        # The chat that this request has opened.
        self._opened: AnsweredIn | None = None
        # The turn repairs the answer of the one before.
        self._repairs = False
        # The path digest of what was said before the question.
        self._start = ""

    @property
    def instructions(self) -> str:
        """A digest of the instructions."""
        return self._said.instructions

    def take(self, *, repairs: bool) -> TakenChat | None:
        """The chat that the next turn continues in; None for a new one. Never raises."""
        completed, self._completed, self._is_sent, self._repairs = self._completed, None, False, repairs
        try:
            if repairs:
                again = self._chats.get(completed[0], completed[1]) if completed is not None else None
                found = [] if again is None else [again]
            else:
                found = self._chats.find(self._said)
            for chat in found:
                if self._chats.take(chat):
                    self._taken = chat
                    return chat
        except StoreError as e:
            log.warning("open_chats_unavailable error=%s", e, exc_info=None if e.is_transient else e)
        return None

    def sending(self) -> None:
        """From now on something may stand in the chat that was taken."""
        self._is_sent = True

    def complete(
        self,
        answered: AnsweredIn,
        text: str,
        calls: Sequence[ToolCall],
        known_tools: KnownTools | None,
    ) -> bool:
        """The answer is complete: its chat stays open, and is free. False where it does not. Never raises."""
        taken, self._taken = self._taken, None
        try:
            if taken is not None:
                return self._advance(taken, answered, text, calls, known_tools)
            self._open(answered, text, calls, known_tools)
            return True
        except StoreError as e:
            log.warning("open_chat_not_noted error=%s", e, exc_info=None if e.is_transient else e)
            if taken is not None:
                self._give_back(taken)
            return False

    def amend(self, text: str, calls: Sequence[ToolCall]) -> None:
        """What the client got as the answer, where that is not what the last turn said. Never raises."""
        if self._completed is None:
            return
        answered, number, turns = self._completed
        turn = turns.get(number)
        answer = self._answer(text, calls)
        if turn is None or turn.messages[-1] == answer:
            return
        turns = turns.with_answer(number, answer, self._path(answer))
        try:
            self._chats.amend(answered, number, turns, self._pair(answer))
        except StoreError as e:
            log.warning("open_chat_not_noted error=%s", e, exc_info=None if e.is_transient else e)

    def release(self, *, is_lost: bool = False) -> None:
        """The turn was not completed. ``is_lost``: the upstream does not know the chat any more. Never raises; safe
        to call again."""
        taken, self._taken = self._taken, None
        if taken is None:
            return
        if is_lost:
            self._chats.forget(taken.row.upstream, taken.row.chat_id, taken.row.account_id)
        else:
            self._give_back(taken)

    def _give_back(self, taken: TakenChat) -> None:
        if self._is_sent and taken.turn.message_id is None:
            # What was said stands in the chat, and nothing can be said in front of it.
            self._chats.forget(taken.row.upstream, taken.row.chat_id, taken.row.account_id)
        else:
            self._chats.release_later(taken)

    def _answer(self, text: str, calls: Sequence[ToolCall]) -> str:
        message = Message("assistant", text_message("assistant", text).parts, tool_calls=tuple(calls))
        return self._reader.message(message)

    def _path(self, answer: str) -> str:
        return self._reader.path(self._start, (*self._said.new, answer))

    def _pair(self, answer: str) -> str:
        return self._reader.pair(self._request, self._said.new[-1], answer)

    def _open(
        self, answered: AnsweredIn, text: str, calls: Sequence[ToolCall], known_tools: KnownTools | None
    ) -> None:
        said, answer = self._said, self._answer(text, calls)
        code, tools = (known_tools.code, known_tools.digest) if known_tools is not None else ("", "")
        self._start = said.path
        messages, count, path = (*said.before, *said.new, answer), said.size + 1, self._path(answer)
        turn = Turn(1, 0, answered.message_id, messages, path, count, said.instructions, code, tools)
        turns, _ = Turns([]).with_turn(turn)
        where = (answered.upstream, answered.chat_id, self._owner, answered.account_id, answered.site)
        row = OpenChatRow(*where, turns.dump(), turn.number, self._chats.now, "", is_held=False)
        opened, self._opened = self._opened, answered
        self._chats.open(row, self._pair(answer))
        self._completed = answered, turn.number, turns
        if opened is not None:
            # The answer in it is not what the client got.
            self._chats.forget(opened.upstream, opened.chat_id, opened.account_id)

    def _advance(
        self,
        taken: TakenChat,
        answered: AnsweredIn,
        text: str,
        calls: Sequence[ToolCall],
        known_tools: KnownTools | None,
    ) -> bool:
        said, row, followed = self._said, taken.row, taken.turn
        if answered.chat_id != row.chat_id:
            # The upstream has put it into another chat.
            self._chats.forget(row.upstream, row.chat_id, row.account_id)
            return False
        answer, number = self._answer(text, calls), row.last_turn + 1
        known = known_tools or followed.known_tools
        code, tools = (known.code, known.digest) if known is not None else ("", "")
        instructions = said.instructions or followed.instructions
        if self._repairs:
            # The two turns are one for the client.
            parent, count, messages = followed.parent, followed.count, (*followed.messages[:-1], answer)
        else:
            self._start = followed.path
            parent, count, messages = followed.number, followed.count + len(said.new) + 1, (*said.new, answer)
        path = self._path(answer)
        turn = Turn(number, parent, answered.message_id, messages, path, count, instructions, code, tools)
        turns, dropped = taken.turns.with_turn(turn, without=followed.number if self._repairs else None)
        if answered.message_id is None and followed.number not in dropped:
            # Nothing can be said in front of this turn.
            dropped.append(followed.number)
        state = ChatState(turns.dump(), number, self._chats.now)
        if not self._chats.advance(taken, state, self._pair(answer), dropped):
            if answered.message_id is None:
                # Another request has said something in it at the same time.
                self._chats.forget(row.upstream, row.chat_id, row.account_id)
            return False
        self._completed = answered, number, turns
        return True


def _followed(found: FoundTurn) -> TakenChat | None:
    """None where nothing can follow this turn."""
    row = found.chat
    try:
        turns = Turns.load(row.turns)
    except (ValueError, TypeError, KeyError):
        log.exception("open_chat_unreadable chat=%s", row.chat_id)
        return None
    turn = turns.get(found.number)
    if turn is None:
        return None
    if turn.message_id is None and (row.holder or found.number != row.last_turn):
        # Without ids only the end of a chat is certain, and that only where no turn began behind it.
        return None
    return TakenChat(row, turns, turn, turns.is_last(found.number), uuid.uuid4().hex)
