"""Which upstream chat continues this conversation, and who may say something in it now.

A conversation belongs to the API key that opened it (``owner``) and to the Kimi account that holds its
chat. Must never know any upstream's JSON, nor SQL text.
"""

import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

from app.chat import Caller, Message
from app.errors import ClientGone, ConversationBusy, InvalidRequest, UnknownConversation
from app.store import ConversationRow, Store

log = logging.getLogger(__name__)

# How often a waiting turn looks whether the conversation is free. Seconds.
_LOOK_EVERY_S = 0.1


class Hold:
    """One turn's exclusive right to a conversation; ends with exactly one of ``complete`` and ``release``."""

    def __init__(self, row: ConversationRow, store: Store, end: Callable[[str], None]) -> None:
        self.row = row
        self._store = store
        self._end = end
        self._open = True

    def save_chat(self, account_id: str, upstream: str, model: str, chat_id: str, message_id: str | None) -> None:
        """Remembers the upstream chat, before anything of its answer is known: a killed worker loses nothing."""
        self._save(account_id=account_id, upstream=upstream, model=model, chat_id=chat_id, message_id=message_id)

    def complete(self, model: str, message_id: str | None, system_digest: str) -> None:
        """The turn has been answered in full: it counts, and the conversation is free."""
        if not self._open:
            return
        self._open = False
        # No longer renewed, whatever happens: where the store fails now, the hold runs out by itself.
        self._end(self.row.holder)
        saved = self._save(
            model=model,
            message_id=message_id,
            system_digest=system_digest,
            turns=self.row.turns + 1,
            updated_at=time.time(),
            held_until=0.0,
        )
        if not saved:
            log.warning("a conversation was taken over while its turn was running; the turn was not counted")

    def release(self, forget: bool) -> None:
        """The turn has failed: the conversation is as it was; ``forget`` where it never really began."""
        if not self._open:
            return
        self._open = False
        self._end(self.row.holder)
        if forget:
            self._store.conversations.drop(self.row.owner, self.row.id, self.row.holder)
        else:
            self._save(held_until=0.0)

    def _save(self, **values: object) -> bool:
        return self._store.conversations.save(self.row.owner, self.row.id, self.row.holder, **values)


class Conversations:
    """All conversations of all keys. Holds live in the store with an expiry and are renewed by a thread."""

    def __init__(self, store: Store, *, lease_s: float, wait_s: float, longest_s: float) -> None:
        """``lease_s``: how long a hold outlives its process; ``wait_s``: for an earlier turn;
        ``longest_s``: after which a hold is not renewed any more, whoever still has it."""
        self._store = store
        self._lease_s = lease_s
        self._wait_s = wait_s
        self._longest_s = longest_s
        self._holders: dict[str, float] = {}
        self._lock = threading.Lock()
        self._renewing = False

    def hold(self, caller: Caller, conversation_id: str, model: str) -> Hold:
        """Takes the conversation for one turn, waiting for an earlier turn of it to end.

        Raises ConversationBusy when the wait was in vain, ClientGone when the client did not wait.
        """
        holder = uuid.uuid4().hex
        deadline = time.monotonic() + self._wait_s
        while True:
            now = time.time()
            row = self._store.conversations.hold(
                caller.owner, conversation_id, model, holder, now, now + self._lease_s
            )
            if row is not None:
                self._begin(holder)
                return Hold(row, self._store, self._forget_holder)
            if time.monotonic() >= deadline:
                raise ConversationBusy(
                    "another turn of this conversation is still running; wait for its end", retry_after_s=5
                )
            log.debug("a turn waits for an earlier one of its conversation")
            time.sleep(_LOOK_EVERY_S)
            if caller.is_gone():
                raise ClientGone("the client left while it waited for its conversation")

    def find(self, owner: str, conversation_id: str) -> ConversationRow:
        row = self._store.conversations.find(owner, conversation_id)
        if row is None:
            raise UnknownConversation(f"no conversation '{conversation_id}' is known for this API key")
        return row

    def _begin(self, holder: str) -> None:
        with self._lock:
            self._holders[holder] = time.monotonic() + self._longest_s
            if not self._renewing:
                threading.Thread(target=self._renew, name="conversation-holds", daemon=True).start()
                self._renewing = True

    def _forget_holder(self, holder: str) -> None:
        with self._lock:
            self._holders.pop(holder, None)

    def _renew(self) -> None:
        """Keeps this process's holds alive; a killed process stops doing so, and its conversations go free."""
        while True:
            time.sleep(self._lease_s / 3)
            with self._lock:
                now = time.monotonic()
                holders = [holder for holder, until in self._holders.items() if until > now]
                if not holders:
                    self._renewing = False
                    return
            try:
                self._store.conversations.renew_holds(holders, time.time() + self._lease_s)
            except SQLAlchemyError:
                log.exception("conversation holds could not be renewed")


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
