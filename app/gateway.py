"""What the public APIs ask for: answers, models, conversations.

Must never know HTTP, JSON, SQL, Flask, or any field name of OpenAI or Kimi.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from app.accounts import Accounts
from app.chat import (
    HEARTBEAT,
    Answer,
    Caller,
    ChatRequest,
    Event,
    Finished,
    Heartbeat,
    Model,
    Notice,
    ReasoningDelta,
    Started,
    TextDelta,
    Unrecognised,
)
from app.conversations import Conversations
from app.errors import ClientGone, GatewayError, ShuttingDown, UpstreamTimeout
from app.litter import Litter
from app.pump import Cancellation, EndOfSource, Pump, PumpOverdue
from app.recordings import Recordings
from app.store import ConversationRow, Store
from app.turns import Turn, Turns
from app.upstreams.models import Models

log = logging.getLogger(__name__)

# Nearly all events; known by their class, without asking for each other one.
_TEXT = frozenset({TextDelta, ReasoningDelta})


@dataclass(slots=True)
class Patience:
    """How long to wait, in seconds. ``tick_s``: how often a silent wait looks after the client. ``ends_at``: when the
    process is about to end, in monotonic time."""

    tick_s: float
    commit_after_s: float
    first_event_s: float
    idle_s: float
    total_s: float
    ends_at: float = math.inf


class Gateway:
    """Opens turns. One object per process, used by all requests at once."""

    def __init__(
        self,
        turns: Turns,
        models: Models,
        accounts: Accounts,
        conversations: Conversations,
        litter: Litter,
        recordings: Recordings,
        store: Store,
        patience: Patience,
    ) -> None:
        self.accounts = accounts
        self._turns = turns
        self._models = models
        self._conversations = conversations
        self._litter = litter
        self._recordings = recordings
        self._store = store
        self._patience = patience

    @property
    def models(self) -> list[Model]:
        return self._models.all

    def model(self, model_id: str) -> Model:
        """Raises UnknownModel, naming those that exist."""
        return self._models.find(model_id)

    def open(self, request: ChatRequest, caller: Caller, *, commit: bool) -> Answer:
        """Begins a turn and returns while Kimi thinks, so that what it will be told with can be made meanwhile.
        Raises GatewayError, which ``wait_for_answer`` of what it gives may still do.

        Its status is certain with the first event that carries an answer, or, where ``commit`` allows it, after
        ``commit_after_s`` of silence. The caller must ``close`` what it gets.
        """
        self.model(request.model)
        if caller.idempotency_key is None:
            return self._open(request, caller, commit)

        def open_certain(who: Caller) -> Answer:
            answer = self._open(request, who, commit)
            answer.wait_for_answer()
            return answer

        return self._recordings.open(caller.idempotency_key, request, caller, open_certain, commit=commit)

    def _open(self, request: ChatRequest, caller: Caller, commit: bool) -> Answer:
        if request.options.format is None:
            return self._begin(request, caller, commit)
        # Not loaded at the start, which would take noticeably longer for a library that few requests need.
        from app.structured import open_structured

        return open_structured(self._open_text, request, caller, commit=commit)

    def _open_text(self, request: ChatRequest, caller: Caller, *, commit: bool) -> Answer:
        stream = self._begin(request, caller, commit)
        stream.wait_for_answer()
        return stream

    def _begin(self, request: ChatRequest, caller: Caller, commit: bool) -> "ChatStream":
        stream = ChatStream(self._turns, Turn(request, caller), self._patience, self.unmet(request), commit=commit)
        stream.wait_for_news()
        return stream

    def unmet(self, request: ChatRequest) -> list[str]:
        """Names of what the request asks for and its model does not have, and which is left out."""
        return self._models.unmet(request.model, request.options)

    def end_within(self, seconds: float) -> None:
        """Turns that still run then are ended, each with an error that says so: the process will not last longer."""
        self._patience.ends_at = time.monotonic() + seconds

    def find_conversation(self, owner: str, conversation_id: str) -> ConversationRow:
        """Raises UnknownConversation."""
        return self._conversations.find(owner, conversation_id)

    def is_busy(self, row: ConversationRow) -> bool:
        """Whether a turn of the conversation runs now."""
        return self._conversations.is_busy(row)

    def forget_conversation(self, caller: Caller, conversation_id: str) -> None:
        """Forgets the conversation and has its Kimi chat deleted. Raises UnknownConversation, ConversationBusy."""
        row = self._conversations.find(caller.owner, conversation_id)
        with self._conversations.hold(caller, conversation_id, row.model, Cancellation()) as hold:
            hold.forget = hold.forget_chat = True
        self._discard_chat(hold.row)

    def warnings(self) -> list[str]:
        """What works now and will not for ever."""
        return self.accounts.warnings()

    def problems(self) -> list[str]:
        """Why no chat could be served now; empty where one could."""
        try:
            self.accounts.look_again()
            self._store.check_writable()
            return [] if self.accounts.has_usable() else self.accounts.problems()
        except Exception as e:  # noqa: BLE001  # whatever the database's driver raises: it is the finding
            return [f"the database cannot be written ({type(e).__name__})"]

    def tidy(self) -> None:
        """Looks, in the background, for chats that a killed worker left undeleted, for conversations that nobody has
        used for too long, and for answers that are kept no longer."""
        self._litter.sweep()
        self._recordings.tidy()
        self._conversations.watch_age(self._discard_chat)

    def _discard_chat(self, row: ConversationRow) -> None:
        if row.chat_id is not None and row.upstream is not None and row.account_id is not None:
            # It was noted with the loss of the conversation.
            self._litter.discard(row.upstream, row.chat_id, row.account_id)


class ChatStream:
    """A turn that runs. Iterating gives its events in batches, each as it came; ``close`` ends it.

    A batch of Heartbeat alone says that nothing came for a moment. The last event is Finished, or GatewayError
    is raised. Everything that the turn holds is given back soon after ``close``, at the latest.
    """

    def __init__(self, turns: Turns, turn: Turn, patience: Patience, unmet: list[str], *, commit: bool) -> None:
        self.turn = turn
        self.error: BaseException | None = None
        # What the user is to know: wishes that the model has no form for, and what the upstream tells, so far.
        self.notices = unmet
        self._patience = patience
        self._began = self._heard_at = self._looked_at = time.monotonic()
        self._first_answer_s: float | None = None
        self._commit_at = self._began + patience.commit_after_s if commit else None
        self._early: list[Event] = []
        self._reason: str | None = None
        self._closed = False
        within_s = min(patience.tick_s, patience.commit_after_s) / 4
        self._pump = Pump[Event](
            lambda cancellation, tell: turns.run(turn, cancellation, tell), patience.total_s, within_s
        )

    @property
    def prompt(self) -> str:
        return self.turn.prompt

    @property
    def rebuilt_from(self) -> str | None:
        return self.turn.rebuilt_from

    def wait_for_news(self) -> None:
        """Returns with whatever the turn tells first, which is mostly that its chat is there; or after a moment."""
        self._listen(lambda: True)

    def wait_for_answer(self) -> None:
        """Returns with the first event that carries an answer, or when to commit has been waited for long enough."""
        if not self._is_certain():
            self._listen(self._is_certain)

    def _listen(self, is_enough: Callable[[], bool]) -> None:
        try:
            for batch in self._events(self._commit_at):
                self._early += batch
                if is_enough():
                    return
        except BaseException as e:
            self.close(e)
            raise

    def _is_certain(self) -> bool:
        if self._first_answer_s is not None:
            return True
        return self._commit_at is not None and time.monotonic() >= self._commit_at

    def __iter__(self) -> Iterator[Sequence[Event]]:
        # Not a generator around another one: every token would pass through both.
        early, self._early = self._early, []
        return itertools.chain([early] if early else [], self._events(None))

    def close(self, error: BaseException | None = None) -> None:
        """Ends the turn. Safe to call again. ``error``: why it ended early, where it did."""
        if self._closed:
            return
        self._closed = True
        self.error = self.error or error
        if self._reason is None:
            self._pump.cancel()
        self._log_end()

    def _events(self, not_later_than: float | None) -> Iterator[list[Event]]:
        """Batches until Finished; an empty wait gives a Heartbeat. Raises GatewayError, also for the client."""
        while self._reason is None:
            batch = self._take(not_later_than)
            now = time.monotonic()
            if batch:
                self._heard_at = now
                batch = self._note(batch)
            else:
                self._check_silence(now)
            if now - self._looked_at >= self._patience.tick_s and self._reason is None:
                self._looked_at = now
                self._check_total(now)
                if self.turn.caller.is_gone():
                    self._fail(ClientGone("the client left before the end of the answer"))
            yield batch or [HEARTBEAT]

    def _check_silence(self, now: float) -> None:
        if self.turn.waits:
            self._heard_at = now
            return
        silence_s = now - self._heard_at
        answered = self._first_answer_s is not None
        if silence_s >= (self._patience.idle_s if answered else self._patience.first_event_s):
            self._fail(UpstreamTimeout(f"{self.turn.label}: Kimi was silent for {silence_s:.0f} s"))

    def _check_total(self, now: float) -> None:
        if now - self._began >= self._patience.total_s:
            self._fail(self._overdue())
        if now >= self._patience.ends_at:
            self._fail(ShuttingDown("the gateway is being stopped, which this answer would outlast"))

    def _take(self, not_later_than: float | None) -> list[Event]:
        timeout_s = self._patience.tick_s
        if not_later_than is not None:
            timeout_s = max(0.001, min(timeout_s, not_later_than - time.monotonic()))
        try:
            return self._pump.take(timeout_s)
        except EndOfSource:
            # Upstream.open promises Finished or an exception: anything else is a fault of ours.
            raise RuntimeError(f"{self.turn.upstream} ended without Finished") from None
        except PumpOverdue:
            # The client has not read for so long that the answer could not go on.
            self._fail(self._overdue())
        except GatewayError as e:
            self._fail(e)

    def _overdue(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"{self.turn.label}: no complete answer in {self._patience.total_s:.0f} s")

    def _note(self, batch: list[Event]) -> list[Event]:
        kept: list[Event] = []
        for event in batch:
            if event.__class__ not in _TEXT:
                match event:
                    case Heartbeat() | Started() | Unrecognised():
                        continue
                    case Notice(kind):
                        if kind not in self.notices:
                            self.notices.append(kind)
                            log.warning("%s: Kimi gave notice: %s", self.turn.label, kind)
                        continue
                    case Finished(reason):
                        self._reason = reason
            kept.append(event)
        if kept and self._first_answer_s is None:
            self._first_answer_s = time.monotonic() - self._began
        return kept or [HEARTBEAT]

    def _fail(self, error: GatewayError) -> NoReturn:
        # Throttling of a stateless request is for its client to wait out: its chat is deleted, nothing is doubled.
        throttled = error.retry_after_s is not None and self.turn.request.conversation_id is None
        error.sent = self.turn.may_have_arrived and not throttled
        self.error = error
        raise error

    def _log_end(self) -> None:
        first = "-" if self._first_answer_s is None else f"{self._first_answer_s * 1000:.0f}"
        ended = self._reason or (
            self.error.code or type(self.error).__name__ if isinstance(self.error, GatewayError) else "left"
        )
        turn = self.turn
        log.info(
            "turn model=%s upstream=%s account=%s attempts=%d first_ms=%s total_ms=%.0f end=%s",
            turn.request.model,
            turn.upstream,
            turn.account.id if turn.account else "-",
            turn.attempts,
            first,
            (time.monotonic() - self._began) * 1000,
            ended,
        )
