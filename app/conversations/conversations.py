"""Which Kimi chat continues a conversation, and which request may use it now.

A conversation belongs to the API key that opened it (``owner``) and to the Kimi account that holds its chat. One turn
at a time has its lease. Must never know any upstream's JSON.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from app.chat import Caller, ChatRequest, EarlierTurn, KnownTools, Message, ToolCall, text_message
from app.concurrency.background import Cancellation
from app.concurrency.periodic import every, in_steps
from app.concurrency.waiting_room import WaitingRoom
from app.conversations.branches import Digests, History, KnownTurn, KnownTurns
from app.errors import (
    ConversationBusy,
    ConversationTaken,
    InvalidRequest,
    TooManyConversations,
    UnknownConversation,
)
from app.store import ConversationRow, Store, StoreError, Transaction, WrongSecret
from app.store.conversations import Hold, Key, Kind
from app.store.process_lease import ProcessLease
from app.text.prompt import result_text

log = logging.getLogger(__name__)

# How often it is looked whether another process has released a conversation that turns here wait for. Seconds.
_LOOK_EVERY_S = 0.1
# How long the number of a key's conversations is trusted without counting again (seconds), while it is this far below
# the limit: other workers open conversations, too.
_COUNT_EVERY_S = 10.0
_FAR_BELOW_LIMIT = 1000
# A count that takes longer is made less often: it takes this share of the time at most.
_COUNT_SHARE = 0.001
# How often conversations that are too old are looked for (seconds), and how many are deleted in one transaction: it
# takes a few milliseconds.
_EXPIRE_EVERY_S = 600.0
_EXPIRE_BATCH = 20
# The line of a turn's transcript where its second half begins, behind everything that the first half can hold.
_REPAIR_LINE = 1_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn stands in its conversation."""

    # What its request repeats.
    history: History
    # The number of the turn that it follows.
    after: int
    # The same turn, where it is not the last one: a new branch begins behind it.
    branch: KnownTurn | None = None


@dataclass(frozen=True, slots=True)
class ConversationChat:
    """The chat that continues a conversation. ``message_id``: of its last answer."""

    account_id: str
    site: str
    upstream: str
    model: str
    chat_id: str
    message_id: str | None


@dataclass(frozen=True, slots=True)
class CompletedTurn:
    """What a conversation is to know of a turn whose answer is complete."""

    place: Place
    model: str
    message_id: str | None
    # Of the instructions that the chat has read.
    system_digest: str
    new_messages: Sequence[Message]
    answer: str
    # Those of the answer.
    calls: Sequence[ToolCall]
    # What the chat knows of functions now; None: nothing new.
    known_tools: KnownTools | None
    # It was a turn of its own, and not the second half of the last one.
    counts: bool
    # Where the conversation continues in another chat than before.
    new_chat: ConversationChat | None = None


class ConversationLease:
    """One turn's exclusive right to a conversation. Ends with exactly one of ``complete`` and ``release``."""

    def __init__(
        self,
        row: ConversationRow,
        store: Store,
        process_lease: ProcessLease,
        cancellation: Cancellation,
        ended: Callable[[], None],
        *,
        keep_transcript: bool,
    ) -> None:
        """``cancellation``: of the turn. ``ended`` is called when the turn has given back the conversation."""
        self.row = row
        self._store = store
        self._process_lease = process_lease
        # What is said in the turn is kept.
        self.keeps_transcript = keep_transcript
        self._cancellation = cancellation
        self._ended = ended
        self._open = True
        # Another turn may have the conversation now.
        self._is_lost = False
        # ``release`` deletes the conversation: its first turn was not completed, so it never began.
        self.forget = row.chat_id is None
        self._digests = Digests(store.digest_key, row.owner, row.id)
        self._known_turns = KnownTurns.load(row.known_turns)

    def __repr__(self) -> str:
        return f"<ConversationLease {self.row.id} turns={self.row.turns}{'' if self._open else ' ended'}>"

    @property
    def key(self) -> Key:
        return self.row.owner, self.row.id

    @property
    def is_new(self) -> bool:
        """Whether no chat was ever opened for it."""
        return self.row.chat_id is None

    @property
    def known_tools(self) -> KnownTools | None:
        """What its chat has read about functions."""
        return None if self.row.tools is None else KnownTools(*json.loads(self.row.tools))

    def check(self) -> None:
        """Called before something is sent into the chat. Raises ConversationTaken: if another turn may have the
        conversation."""
        if self._is_lost or not self._process_lease.is_valid():
            raise self._taken()

    def check_lost(self) -> None:
        """Called when the turn was cancelled. Raises ConversationTaken: if that was the reason."""
        if self._is_lost:
            raise self._taken()

    def lose(self) -> None:
        """Ends the turn, because another one may have the conversation."""
        if self._open:
            self._is_lost = True
            self._cancellation.cancel()

    def place(self, request: ChatRequest) -> Place:
        """Where the turn of a request stands: behind the last turn, unless the request says otherwise, or what it
        repeats shows that. Raises InvalidRequest where it continues from a turn that is not known any more."""
        history = self._digests.history(request.messages)
        last = self.row.turns
        if request.repairs_last_turn or last == 0:
            return Place(history, last)
        if request.earlier_turn is not None:
            earlier = self._known_turns.get(request.earlier_turn.number)
            if earlier is None:
                raise last_turn_only(request.earlier_turn)
            return Place(history, earlier.number, earlier)
        # A client that names the turn before this one need not repeat anything.
        branch = self._known_turns.branch_of(history, last) if request.after_turn is None else None
        return Place(history, last) if branch is None else Place(history, branch.number, branch)

    def save_chat(self, chat: ConversationChat) -> bool:
        """Stores which chat continues the conversation, before anything of its answer is known: a kill loses nothing.
        False where another turn has the conversation now."""
        return self._save(**_columns(chat))

    def transcript(self, last: int) -> tuple[Message, ...]:
        """What was said on the branch that ends with the turn ``last``; empty where it was not kept, or cannot be
        decrypted."""
        try:
            lines = self._store.transcripts.read(self.row.owner, self.row.id)
        except WrongSecret:
            # A start does not check transcripts: a changed secret loses what it sealed, and nothing else.
            log.warning("transcript_unreadable reason=it was sealed with another GATEWAY_SECRET")
            return ()
        is_said = self._known_turns.branch_to(last)
        return _read_transcript([(role, text) for turn, role, text in lines if is_said(turn + 1)])

    def complete(self, turn: CompletedTurn) -> None:
        """The answer is complete, and the conversation is free. A chat that the turn has left is noted for deletion.

        Raises ConversationTaken where another turn took the conversation over.
        """
        if not self._open:
            return
        answer = Message("assistant", text_message("assistant", turn.answer).parts, tool_calls=tuple(turn.calls))
        known_turns, dropped = self._with_turn(turn, answer)
        values: dict[str, object] = {
            **(_columns(turn.new_chat) if turn.new_chat is not None else {}),
            "model": turn.model,
            "message_id": turn.message_id,
            "system_digest": turn.system_digest,
            "turns": self.row.turns + turn.counts,
            "updated_at": self._store.database.now(),
            "held_until": 0.0,
            "known_turns": known_turns.dump(),
        }
        if self.row.kind == "response" and self.row.turns > 0 and turn.counts:
            values["kind"] = "responses"
        if turn.known_tools is not None:
            values["tools"] = json.dumps([turn.known_tools.code, turn.known_tools.digest])
        elif turn.new_chat is not None or turn.place.branch is not None:
            values["tools"] = None
        if self.keeps_transcript or turn.new_chat is not None or dropped:
            saved = self._store.database.in_exclusive_transaction(
                lambda tx: self._complete_in(tx, turn, answer, values, dropped)
            )
        else:
            saved = self._save(**values)
        self._open = False
        self._ended()
        if not saved:
            raise self._taken()

    def _with_turn(self, turn: CompletedTurn, answer: Message) -> tuple[KnownTurns, list[int]]:
        """The turns that are known now, and the numbers of those that were dropped for the new one."""
        known, place, last = self._known_turns, turn.place, self.row.turns
        in_new_chat = turn.new_chat is not None
        if not turn.counts:
            # What the client was shown of the two halves is not known here.
            before = known.get(last)
            parent = last - 1 if before is None else before.parent
            return known.with_turn(KnownTurn(last, parent, turn.message_id, None, ""), in_new_chat=in_new_chat)
        if last == 0:
            known, _ = known.with_turn(KnownTurn(0, -1, None, place.history.path, ""), in_new_chat=True)
        before = known.get(place.after)
        path = before.path if before is not None else None
        if place.history.turns:
            # As the client will repeat it.
            path = place.history.path
        digest = self._digests.turn(place.history.question, answer)
        if path is not None:
            path = self._digests.path(path, digest)
        new = KnownTurn(last + 1, place.after, turn.message_id, path, digest)
        return known.with_turn(new, in_new_chat=in_new_chat)

    @staticmethod
    def _taken() -> ConversationTaken:
        return ConversationTaken(
            "this request could not renew its lease in the database in time; another request may have the "
            "conversation now"
        )

    def _complete_in(
        self, tx: Transaction, turn: CompletedTurn, answer: Message, values: dict[str, object], dropped: Sequence[int]
    ) -> bool:
        """All or nothing: a turn that lost the conversation leaves nothing in its transcript."""
        row, store = self.row, self._store
        if not store.conversations.save_in(tx, row.owner, row.id, row.holder, **values):
            return False
        if turn.new_chat is not None:
            # From here on it is the conversation's, whatever becomes of this process.
            store.pending_deletions.delete_in(tx, turn.new_chat.upstream, turn.new_chat.chat_id)
            # Also where Kimi says that it does not know it, or its account is gone for now: that may change.
            _note_chat(store, tx, row)
        for number in dropped:
            store.transcripts.delete_turn(tx, row.owner, row.id, number - 1)
        if self.keeps_transcript:
            lines = [line for message in (*turn.new_messages, answer) for line in _transcript_lines(message)]
            at, first = (row.turns, 0) if turn.counts else (row.turns - 1, _REPAIR_LINE)
            store.transcripts.put(tx, row.owner, row.id, at, lines, first)
        return True

    def delete(self) -> None:
        """Deletes the conversation, and notes its chat for deletion.

        Raises:
            ConversationTaken: if another turn may have the conversation.
            StoreError: if the database failed. The conversation is as it was, unless the error says otherwise.
        """
        self.check()
        is_deleted = self._store.database.in_exclusive_transaction(self._delete_in)
        # Where the connection was lost at its end, the transaction was repeated, and what it had deleted was gone.
        if not is_deleted and self._store.conversations.find(*self.key) is not None:
            raise self._taken()
        self._open = False
        self._ended()

    def release(self) -> None:
        """The turn was not completed: the conversation is as it was, or deleted (``forget``). Safe to call again."""
        if not self._open:
            return
        self._open = False
        row = self.row
        if self.forget:
            self._process_lease.run_or_retry(
                lambda: self._store.database.in_exclusive_transaction(
                    lambda tx: self._store.conversations.delete(tx, row.owner, row.id, row.holder)
                )
            )
        else:
            self._process_lease.run_or_retry(lambda: self._store.conversations.release(row.owner, row.id, row.holder))
        self._ended()

    def _delete_in(self, tx: Transaction) -> bool:
        row = self._store.conversations.delete(tx, self.row.owner, self.row.id, self.row.holder)
        if row is None:
            return False
        _note_chat(self._store, tx, row)
        return True

    def _save(self, **values: object) -> bool:
        return self._store.conversations.save(self.row.owner, self.row.id, self.row.holder, **values)


@dataclass(frozen=True, slots=True)
class ConversationLimits:
    # How long a turn waits for an earlier one.
    wait_s: float
    # When a lease ends, even if it was not released.
    longest_s: float
    # Conversations per API key.
    max_count: int
    # How long a conversation is kept without a turn, by how it began; None: for ever.
    max_age_s: Mapping[Kind, float | None]
    # Keep what is said, so that a conversation whose chat is lost can be rebuilt.
    keep_transcripts: bool


class Conversations:
    """The conversations of all API keys. A lease is valid while the process that has it lives."""

    def __init__(self, store: Store, process_lease: ProcessLease, limits: ConversationLimits) -> None:
        self._store = store
        self._process_lease = process_lease
        self._limits = limits
        # The turns of this process that have a conversation, by their holder; None for those that ask for one.
        self._running: dict[str, ConversationLease | None] = {}
        # How often others may have taken what this process held.
        self._losses = 0
        self._waiting: WaitingRoom[Key] = WaitingRoom(
            self._released, _LOOK_EVERY_S, "conversations", one_at_a_time=True
        )
        # Owner → when its conversations are to be counted again (monotonic), and the last count plus those opened
        # here since.
        self._counts: dict[str, tuple[float, int]] = {}
        process_lease.when_lost(self._end_lost_turns)

    @contextmanager
    def lease(
        self, caller: Caller, conversation_id: str, model: str, cancellation: Cancellation, kind: Kind = "named"
    ) -> Iterator[ConversationLease]:
        """The conversation for one turn, after an earlier turn of it has ended. ``kind``: of a new one.

        Raises:
            ConversationBusy: if the earlier turn did not end in time.
            TooManyConversations: if it would be a new one above the limit.
            Cancelled
        """
        lease = self._acquire((caller.owner, conversation_id), model, kind, cancellation)
        try:
            yield lease
        finally:
            lease.release()

    def _acquire(self, key: Key, model: str, kind: Kind, cancellation: Cancellation) -> ConversationLease:
        deadline = time.monotonic() + self._limits.wait_s
        # Not before those who wait already.
        if self._waiting.is_empty(key):
            lease = self._try_to_acquire(key, model, kind, cancellation)
            if lease is not None:
                return lease
        with self._waiting.place(key) as place:
            while True:
                if self._waiting.is_first(place):
                    place.woken.clear()
                    lease = self._try_to_acquire(key, model, kind, cancellation)
                    if lease is not None:
                        place.is_served = True
                        return lease
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise ConversationBusy(
                        "another turn of this conversation is still running; wait for its end", retry_after_s=5
                    )
                cancellation.wait(place.woken, left_s)

    def _try_to_acquire(
        self, key: Key, model: str, kind: Kind, cancellation: Cancellation
    ) -> ConversationLease | None:
        """None while another turn has the conversation."""
        holder = uuid.uuid4().hex
        # Before it has the conversation: what no turn of this process has is released.
        self._running[holder] = None
        row: ConversationRow | None = None
        try:
            losses = -1
            while losses != self._losses:
                # Again, if others may have taken the conversation since: it is its own only if it still gets it.
                losses = self._losses
                row = self._acquire_row(key, model, kind, holder)
        finally:
            if row is None:
                del self._running[holder]
        if row is None:
            return None

        def ended() -> None:
            self._running.pop(holder, None)
            self._waiting.wake(key)

        keep = self._limits.keep_transcripts
        lease = ConversationLease(row, self._store, self._process_lease, cancellation, ended, keep_transcript=keep)
        self._running[holder] = lease
        self._check_count(lease)
        return lease

    def _acquire_row(self, key: Key, model: str, kind: Kind, holder: str) -> ConversationRow | None:
        now = self._store.database.now()
        until = now + self._limits.longest_s
        try:
            return self._store.conversations.acquire(*key, model, kind, holder, self._process_lease.id, now, until)
        except StoreError as e:
            if e.may_have_run:
                self._process_lease.retry_later(lambda: self._store.conversations.release(*key, holder))
            raise

    def _released(self, keys: list[Key]) -> list[Key]:
        """Which of these conversations may be free."""
        held = self._store.conversations.held_among(keys)
        for key, hold in held.items():
            if hold.process_id == self._process_lease.id and hold.holder not in self._running:
                # Its turn has ended, and its release has failed, or was never called.
                self._process_lease.run_or_retry(partial(self._store.conversations.release, *key, hold.holder))
        log.debug("conversation_busy waiting=%d", len(held))
        return [key for key in keys if key not in held]

    def _end_lost_turns(self, database_answers: bool) -> None:
        """Ends the turns whose conversations others have now, or may have."""
        self._losses += 1
        running = [lease for lease in self._running.values() if lease is not None]
        held: Mapping[Key, Hold] = {}
        if database_answers:
            with suppress(StoreError), self._store.database.retrying_for(0):
                held = self._store.conversations.held_among([lease.key for lease in running])
        for lease in running:
            hold = held.get(lease.key)
            if hold is None or hold.holder != lease.row.holder:
                log.warning("conversation_lost_to_another_process conversation=%s", lease.row.id)
                lease.lose()

    def find(self, owner: str, conversation_id: str) -> ConversationRow:
        row = self._store.conversations.find(owner, conversation_id)
        if row is None:
            raise UnknownConversation(f"no conversation '{conversation_id}' is known for this API key")
        return row

    def is_busy(self, row: ConversationRow) -> bool:
        """Whether a turn of it runs now."""
        key = (row.owner, row.id)
        return key in self._store.conversations.held_among([key])

    def start_expiry(self, forget: Callable[[ConversationRow], None]) -> None:
        """Starts to delete conversations that were not used for too long. ``forget`` is called for each."""
        ages = {kind: age for kind, age in self._limits.max_age_s.items() if age is not None}
        if ages:
            every(_EXPIRE_EVERY_S, lambda: self._forget_all_unused(ages, forget), "conversation-expiry")

    def _check_count(self, lease: ConversationLease) -> None:
        row = lease.row
        if not (lease.is_new and row.turns == 0):
            return
        try:
            began = time.monotonic()
            again_at, count = self._counts.get(row.owner, (0.0, 0))
            count += 1
            if began > again_at or count > self._limits.max_count - _FAR_BELOW_LIMIT:
                count = self._store.conversations.count(row.owner, self._limits.max_count + 1)
                now = time.monotonic()
                again_at = now + max(_COUNT_EVERY_S, (now - began) / _COUNT_SHARE)
            self._counts[row.owner] = (again_at, count)
            if count > self._limits.max_count:
                raise TooManyConversations(
                    f"this API key has {self._limits.max_count} conversations already (MAX_CONVERSATIONS); "
                    "delete some, or wait until old ones are forgotten"
                )
        except BaseException:
            lease.release()
            raise

    def _forget_all_unused(self, ages: Mapping[Kind, float], forget: Callable[[ConversationRow], None]) -> None:
        """``ages``: in seconds."""
        now = self._store.database.now()
        for kind, age in ages.items():
            self._forget_unused(kind, now - age, forget)

    def _forget_unused(self, kind: Kind, before: float, forget: Callable[[ConversationRow], None]) -> None:
        def forget_some() -> int:
            rows = self._store.database.in_exclusive_transaction(lambda tx: self._delete_unused(tx, kind, before))
            for row in rows:
                forget(row)
            return len(rows)

        in_steps(forget_some, _EXPIRE_BATCH)

    def _delete_unused(self, tx: Transaction, kind: Kind, before: float) -> list[ConversationRow]:
        rows = self._store.conversations.delete_unused(tx, kind, before, _EXPIRE_BATCH)
        for row in rows:
            _note_chat(self._store, tx, row)
        return rows


def _columns(chat: ConversationChat) -> dict[str, object]:
    return {name: getattr(chat, name) for name in ConversationChat.__slots__}


def last_turn_only(earlier: EarlierTurn) -> InvalidRequest:
    """The error for a conversation that cannot continue from an earlier turn."""
    return InvalidRequest(
        f"{earlier.field}: this conversation can continue from its last response only, {earlier.last}; for a branch, "
        "send the whole history as input, with store: false",
        code="invalid_previous_response_id",
        param=earlier.field,
    )


def _transcript_lines(message: Message) -> Iterator[tuple[str, str]]:
    """A message as lines of a transcript, each (role, text). Calls and results have roles of their own."""
    if message.role in ("tool", "function"):
        fields = {"id": message.tool_call_id, "name": message.name, "failed": message.failed}
        yield "result", json.dumps({**fields, "text": result_text(message)})
        return
    yield message.role, message.text
    for call in message.tool_calls:
        yield "call", json.dumps([call.id, call.name, call.arguments, call.kind, call.namespace])


def _read_transcript(lines: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """What ``_transcript_lines`` has written."""
    messages: list[Message] = []
    for role, text in lines:
        if role == "call":
            last = messages.pop()
            messages.append(replace(last, tool_calls=(*last.tool_calls, ToolCall(*json.loads(text)))))
        elif role == "result":
            kept = json.loads(text)
            parts = text_message("tool", kept["text"]).parts
            messages.append(Message("tool", parts, kept["name"], (), kept["id"], kept["failed"]))
        else:
            messages.append(text_message(role, text))  # type: ignore[arg-type]  # what was written above
    return tuple(messages)


def _note_chat(store: Store, tx: Transaction, row: ConversationRow) -> None:
    """Notes the chat of a conversation for deletion as that is forgotten: it could not be found later."""
    if row.chat_id is not None and row.upstream is not None and row.account_id is not None:
        store.pending_deletions.add_in(tx, row.upstream, row.chat_id, row.account_id, store.database.now())


def unsent_messages(row: ConversationRow, messages: Sequence[Message]) -> tuple[tuple[Message, ...], str]:
    """What Kimi has not read yet, and the digest of the instructions that it will then have read.

    First turn: everything. Later turns: what follows the last assistant message, instructions (system, developer)
    too; those from before it only where they differ from those that Kimi has read. Raises InvalidRequest where
    nothing is new.
    """
    digest = _digest_of_instructions(messages)
    if row.turns == 0:
        return tuple(messages), digest
    answered = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=-1)
    if answered < 0:
        # Without a history the instructions come first in each turn.
        answered = next((i for i, m in enumerate(messages) if not _instructs(m)), len(messages)) - 1
    before = [m for m in messages[: answered + 1] if _instructs(m)]
    new = list(messages[answered + 1 :])
    said = [m for m in new if not _instructs(m)]
    if said and digest == row.system_digest:
        # They stand elsewhere, but are the same: some programs move theirs to the end of each request.
        return tuple(said), digest
    if not new and answered == len(messages) - 1 and len(before) == len(messages) and digest != row.system_digest:
        # Nothing but instructions, and other ones than before.
        return tuple(before), digest
    if not new:
        raise InvalidRequest(_NOTHING_NEW, param="messages")
    if before and _digest_of_instructions(before) != row.system_digest:
        new = [*before, *new]
    return tuple(new), digest if any(map(_instructs, messages)) else row.system_digest or digest


_NOTHING_NEW = (
    "nothing new for this conversation: the last assistant message is not followed by another one. In a conversation "
    "Kimi cannot be made to continue its own message: ask for it in a message"
)


def _instructs(message: Message) -> bool:
    return message.role in ("system", "developer")


def _digest_of_instructions(messages: Sequence[Message]) -> str:
    text = "\0".join(m.text for m in messages if _instructs(m))
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
