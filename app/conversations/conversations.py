"""Which upstream chat continues this conversation, and who may say something in it now.

A conversation belongs to the API key that opened it (``owner``) and to the Kimi account that holds its
chat. Must never know any upstream's JSON, nor SQL text.
"""

import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from app.chat import Caller, Message, text_message
from app.concurrency.background import Cancellation
from app.concurrency.periodic import every
from app.errors import (
    ConversationBusy,
    ConversationTaken,
    InvalidRequest,
    TooManyConversations,
    UnknownConversation,
)
from app.store import ConversationRow, Store, Transaction, WrongSecret
from app.store.process_lease import ProcessLease

log = logging.getLogger(__name__)

# How often a waiting turn looks whether the conversation is free. Seconds.
_LOOK_EVERY_S = 0.1
# How long the number of a key's conversations is believed without counting again, seconds, while it is so far below
# what is allowed: other workers make some, too.
_COUNT_EVERY_S = 10.0
_WELL_BELOW = 1000
# How often conversations that are too old are looked for, and how many are forgotten at once.
_AGE_EVERY_S = 600.0
_AGE_BATCH = 100
# Where in the transcript of a turn its second half begins: behind all that can be said in the first.
_MENDED_LINE = 1_000_000


class Hold:
    """One turn's exclusive right to a conversation; ends with exactly one of ``complete`` and ``release``."""

    def __init__(
        self, row: ConversationRow, store: Store, process_lease: ProcessLease, *, keep_transcript: bool
    ) -> None:
        self.row = row
        self._store = store
        self._process_lease = process_lease
        self._keep_transcript = keep_transcript
        self._open = True
        # Whether the conversation goes with a turn that is not completed: it never really began.
        self.forget = row.chat_id is None
        # Whether its chat is then to be deleted, too.
        self.forget_chat = False

    @property
    def is_new(self) -> bool:
        """Whether no chat was ever opened for it."""
        return self.row.chat_id is None

    def save_chat(self, account_id: str, upstream: str, model: str, chat_id: str, message_id: str | None) -> bool:
        """Remembers the upstream chat, before anything of its answer is known: a killed worker loses nothing. False
        where another turn has the conversation now."""
        return self._save(
            account_id=account_id, upstream=upstream, model=model, chat_id=chat_id, message_id=message_id
        )

    def transcript(self) -> tuple[Message, ...]:
        """What was said so far, where it was kept and can be read."""
        try:
            lines = self._store.transcripts.read(self.row.owner, self.row.id)
        except WrongSecret:
            # Found here and not at the start: whoever changes the secret loses what it sealed, and nothing else.
            log.warning("what was kept of a conversation is of no use: its GATEWAY_SECRET is not set any more")
            return ()
        return tuple(
            text_message(role, text)  # type: ignore[arg-type]  # only what ``complete`` has written
            for role, text in lines
        )

    def complete(
        self,
        model: str,
        message_id: str | None,
        system_digest: str,
        said: Sequence[Message],
        answer: str,
        *,
        counts: bool,
    ) -> None:
        """The turn has been answered in full, and the conversation is free.

        ``said``: what was new in it. ``counts``: else it belongs to the one before. Raises ConversationTaken where
        another turn took the conversation over.
        """
        if not self._open:
            return
        values: dict[str, object] = {
            "model": model,
            "message_id": message_id,
            "system_digest": system_digest,
            "turns": self.row.turns + counts,
            "updated_at": self._store.database.now(),
            "held_until": 0.0,
        }
        if self._keep_transcript:
            lines = [(m.role, m.text) for m in said] + [("assistant", answer)]
            turn, first = (self.row.turns, 0) if counts else (self.row.turns - 1, _MENDED_LINE)
            saved = self._store.database.in_exclusive_transaction(
                lambda tx: self._save_with_transcript(tx, values, turn, lines, first)
            )
        else:
            saved = self._save(**values)
        self._open = False
        if not saved:
            raise ConversationTaken(
                "this turn was out of touch with the database for so long that another one took its conversation over"
            )

    def _save_with_transcript(
        self, tx: Transaction, values: dict[str, object], turn: int, lines: Sequence[tuple[str, str]], first: int
    ) -> bool:
        """Both or neither: what a turn said that had lost the conversation is no part of it."""
        row = self.row
        if not self._store.conversations.save_in(tx, row.owner, row.id, row.holder, **values):
            return False
        self._store.transcripts.put(tx, row.owner, row.id, turn, lines, first)
        return True

    def release(self) -> None:
        """The turn was not completed: the conversation is as it was, or gone where it is to be forgotten."""
        if not self._open:
            return
        self._open = False
        if self.forget:
            self._process_lease.run_or_retry(lambda: self._store.database.in_exclusive_transaction(self._drop))
        else:
            self._process_lease.run_or_retry(lambda: self._save(held_until=0.0))

    def _drop(self, tx: Transaction) -> None:
        row = self._store.conversations.delete(tx, self.row.owner, self.row.id, self.row.holder)
        if row is not None and self.forget_chat:
            _note_chat(self._store, tx, row)

    def _save(self, **values: object) -> bool:
        return self._store.conversations.save(self.row.owner, self.row.id, self.row.holder, **values)


@dataclass(frozen=True, slots=True)
class ConversationLimits:
    """``wait_s``: for an earlier turn; ``longest_s``: after which a hold ends, whoever has it; ``most``: per key;
    ``max_age_s``: without a turn (None: for ever). ``keep_transcripts``: so that a lost chat can be rebuilt."""

    wait_s: float
    longest_s: float
    most: int
    max_age_s: float | None
    keep_transcripts: bool


class Conversations:
    """All conversations of all keys. A hold lives in the store for as long as the process that has it."""

    def __init__(self, store: Store, process_lease: ProcessLease, limits: ConversationLimits) -> None:
        self._store = store
        self._process_lease = process_lease
        self._limits = limits
        # By owner: how many it had at a (monotonic) time, and how many it has made here since.
        self._counts: dict[str, tuple[float, int]] = {}

    @contextmanager
    def hold(self, caller: Caller, conversation_id: str, model: str, cancellation: Cancellation) -> Iterator[Hold]:
        """Takes the conversation for one turn, waiting for an earlier turn of it to end.

        Raises ConversationBusy when the wait was in vain, TooManyConversations where it would be one too many,
        and Cancelled.
        """
        hold = self._hold(caller.owner, conversation_id, model, cancellation)
        try:
            yield hold
        finally:
            hold.release()

    def _hold(self, owner: str, conversation_id: str, model: str, cancellation: Cancellation) -> Hold:
        deadline = time.monotonic() + self._limits.wait_s
        holder = uuid.uuid4().hex
        while True:
            now = self._store.database.now()
            until = now + self._limits.longest_s
            row = self._store.conversations.acquire(
                owner, conversation_id, model, holder, self._process_lease.id, now, until
            )
            if row is not None:
                hold = Hold(row, self._store, self._process_lease, keep_transcript=self._limits.keep_transcripts)
                self._check_count(hold)
                return hold
            if time.monotonic() >= deadline:
                raise ConversationBusy(
                    "another turn of this conversation is still running; wait for its end", retry_after_s=5
                )
            log.debug("a turn waits for an earlier one of its conversation")
            cancellation.sleep(_LOOK_EVERY_S)

    def find(self, owner: str, conversation_id: str) -> ConversationRow:
        row = self._store.conversations.find(owner, conversation_id)
        if row is None:
            raise UnknownConversation(f"no conversation '{conversation_id}' is known for this API key")
        return row

    def is_busy(self, row: ConversationRow) -> bool:
        """Whether a turn of it runs now."""
        return self._store.conversations.is_held(row, self._store.database.now())

    def watch_age(self, forget: Callable[[ConversationRow], None]) -> None:
        """Forgets, from now on and in the background, what nobody has used for too long."""
        max_age_s = self._limits.max_age_s
        if max_age_s is not None:
            every(_AGE_EVERY_S, lambda: self._forget_unused(max_age_s, forget), "conversation-expiry")

    def _check_count(self, hold: Hold) -> None:
        row = hold.row
        if not (hold.is_new and row.turns == 0):
            return
        try:
            now = time.monotonic()
            counted_at, count = self._counts.get(row.owner, (0.0, 0))
            count += 1
            if now - counted_at > _COUNT_EVERY_S or count > self._limits.most - _WELL_BELOW:
                counted_at, count = now, self._store.conversations.count(row.owner)
            self._counts[row.owner] = (counted_at, count)
            if count > self._limits.most:
                raise TooManyConversations(
                    f"this API key has {self._limits.most} conversations already (MAX_CONVERSATIONS); "
                    "delete some, or wait until old ones are forgotten"
                )
        except BaseException:
            hold.release()
            raise

    def _forget_unused(self, max_age_s: float, forget: Callable[[ConversationRow], None]) -> None:
        before = self._store.database.now() - max_age_s
        while rows := self._store.database.in_exclusive_transaction(partial(self._drop_unused, before=before)):
            for row in rows:
                forget(row)

    def _drop_unused(self, tx: Transaction, before: float) -> list[ConversationRow]:
        rows = self._store.conversations.delete_unused(tx, before, self._store.database.now(), _AGE_BATCH)
        for row in rows:
            _note_chat(self._store, tx, row)
        return rows


def _note_chat(store: Store, tx: Transaction, row: ConversationRow) -> None:
    """Notes the chat of a conversation for deletion as that is forgotten: nobody would find it later."""
    if row.chat_id is not None and row.upstream is not None and row.account_id is not None:
        store.pending_deletions.add_in(tx, row.upstream, row.chat_id, row.account_id, store.database.now())


def what_is_new(row: ConversationRow, messages: Sequence[Message]) -> tuple[tuple[Message, ...], str]:
    """What Kimi has not read yet, and the digest of the instructions that it will then have read.

    A first turn: everything. Later: what follows the last assistant message; instructions (system,
    developer) from before that only where they differ from those that Kimi was given.
    """
    instructions = [m for m in messages if m.role in ("system", "developer")]
    digest = hashlib.sha256("\0".join(m.text for m in instructions).encode(errors="replace")).hexdigest()
    if row.turns == 0:
        return tuple(messages), digest
    answered = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=-1)
    new = [m for m in messages[answered + 1 :] if m.role not in ("system", "developer")]
    if not new:
        raise InvalidRequest(
            "nothing new for this conversation: the last assistant message is not followed by another one",
            param="messages",
        )
    if digest != row.system_digest and instructions:
        return (*instructions, *new), digest
    return tuple(new), digest if instructions else row.system_digest or digest
