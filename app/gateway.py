"""The order of work: model → conversation → account → open → first event → commit → remember.

Must never know HTTP, JSON, SQL, Flask, or any field name of OpenAI or Kimi.
"""

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from sqlalchemy.exc import SQLAlchemyError

from app.accounts import Account, Accounts
from app.chat import (
    HEARTBEAT,
    Caller,
    ChatRequest,
    CitationStyle,
    Event,
    Finished,
    Heartbeat,
    Message,
    Model,
    Notice,
    ReasoningDelta,
    Source,
    Started,
    TextDelta,
    Unrecognised,
)
from app.conversations import Conversations, Hold, what_is_new
from app.errors import (
    AccountRejected,
    ClientGone,
    ConversationBusy,
    ConversationLost,
    GatewayError,
    GenerationGone,
    InvalidRequest,
    UpstreamError,
    UpstreamTimeout,
)
from app.litter import Litter
from app.prompt import flatten
from app.pump import Cancellation, EndOfSource, Pump, PumpOverdue
from app.shaping import shaper
from app.store import ConversationRow, LitterRow, Store
from app.upstreams import Resume, Upstream
from app.upstreams.models import Models

log = logging.getLogger(__name__)

# How long an upstream that turned out to be gone is tried last. Kept in the process, not in the store: finding
# out costs a worker one short call, and remembering costs the path of every request nothing.
_GONE_S = 600.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds. ``tick_s``: how often a silent wait looks after the client."""

    tick_s: float
    commit_after_s: float
    first_event_s: float
    idle_s: float
    total_s: float


class Gateway:
    """Opens turns. One object per process, used by all requests at once."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        models: Models,
        accounts: Accounts,
        conversations: Conversations,
        store: Store,
        patience: Patience,
        *,
        keep_chats: bool,
        citations: CitationStyle,
    ) -> None:
        self._upstreams = {upstream.name: upstream for upstream in upstreams}
        self._models = models
        # Until when (monotonic) an upstream counts as gone.
        self._gone: dict[str, float] = {}
        self.accounts = accounts
        self._conversations = conversations
        self._store = store
        self._patience = patience
        self._keep_chats = keep_chats
        self.citations = citations
        self._litter = Litter(store, accounts.ids, self._delete_chat, keep_s=patience.total_s + 60)

    @property
    def models(self) -> list[Model]:
        return self._models.all

    def model(self, model_id: str) -> Model:
        """Raises UnknownModel, naming those that exist."""
        return self._models.find(model_id)

    def open(self, request: ChatRequest, caller: Caller, *, commit: bool) -> "ChatStream":
        """Begins a turn and returns when its status is certain: with the first event that carries an answer,
        or, where ``commit`` allows it, after ``commit_after_s`` of silence. Raises GatewayError.

        The caller must ``close`` what it gets.
        """
        self.model(request.model)
        hold = None
        if request.conversation_id is not None:
            hold = self._conversations.hold(caller, request.conversation_id, request.model)
        try:
            upstreams = self._upstreams_for(request.model, hold)
            turn = self._plan(request, hold)
        except BaseException:
            if hold is not None:
                hold.release(forget=hold.row.chat_id is None)
            raise
        for upstream in upstreams:
            stream = self._attempt(turn, upstream, request, caller)
            try:
                stream.wait_for_answer(commit)
            except BaseException as e:
                if isinstance(e, GenerationGone) and upstream is not upstreams[-1]:
                    stream.give_up(e)
                    continue
                stream.close(e)
                raise
            return stream
        raise RuntimeError("no upstream was tried")

    def _attempt(self, turn: "_Turn", upstream: Upstream, request: ChatRequest, caller: Caller) -> "ChatStream":
        try:
            return ChatStream(self, turn, upstream, request, caller, self._patience)
        except BaseException:
            if turn.hold is not None:
                turn.hold.release(forget=turn.hold.row.chat_id is None)
            raise

    def unmet(self, request: ChatRequest) -> list[str]:
        """Names of what the request asks for and its model does not have, and which is left out."""
        return self._models.unmet(request.model, request.options)

    def find_conversation(self, owner: str, conversation_id: str) -> ConversationRow:
        """Raises UnknownConversation."""
        return self._conversations.find(owner, conversation_id)

    def forget_conversation(self, caller: Caller, conversation_id: str) -> None:
        """Forgets the conversation and has its Kimi chat deleted. Raises UnknownConversation, ConversationBusy."""
        row = self._conversations.find(caller.owner, conversation_id)
        hold = self._conversations.hold(caller, conversation_id, row.model)
        hold.release(forget=True)
        self._discard_chat(hold.row)

    def warnings(self) -> list[str]:
        """What works now and will not for ever."""
        return self.accounts.warnings()

    def problems(self) -> list[str]:
        """Why no chat could be served now; empty where one could."""
        problems = []
        try:
            self.accounts.look_again()
            self._store.check_writable()
        except Exception as e:  # noqa: BLE001  # whatever the database's driver raises: it is the finding
            problems.append(f"the database cannot be written ({type(e).__name__})")
        if not self.accounts.has_usable():
            problems += self.accounts.problems()
        return problems

    def sweep(self) -> None:
        """Looks for chats that a killed worker left undeleted."""
        self._litter.sweep()

    def _upstreams_for(self, model_id: str, hold: Hold | None) -> list[Upstream]:
        """Who may serve the turn, in order: those that turned out to be gone come last. At least one.

        A conversation stays where its chat is. Raises ConversationLost and InvalidRequest where it cannot.
        """
        names = self._models.served_by(model_id)
        if hold is not None and hold.row.chat_id is not None and hold.row.upstream is not None:
            name = hold.row.upstream
            if name not in self._upstreams:
                raise ConversationLost(
                    f"this conversation was opened over {name}, which KIMI_PROTOCOL leaves out; "
                    "change KIMI_PROTOCOL, or start a new conversation"
                )
            if name not in names:
                raise InvalidRequest(
                    f"the model '{model_id}' is not served by {name}, where this conversation was opened; "
                    f"go on with '{hold.row.model}', or start a new conversation",
                    code="model_not_in_conversation",
                    param="model",
                )
            names = (name,)
        now = time.monotonic()
        return [self._upstreams[name] for name in sorted(names, key=lambda name: self._gone.get(name, 0.0) > now)]

    def _plan(self, request: ChatRequest, hold: Hold | None) -> "_Turn":
        if hold is not None and request.after_turn not in (None, hold.row.turns):
            raise ConversationBusy("another turn of this conversation came in between", retry_after_s=1)
        messages: Sequence[Message] = request.messages
        digest = ""
        resume = None
        if hold is not None:
            messages, digest = what_is_new(hold.row, messages)
        if not any(part.strip() for m in messages for part in m.parts):
            raise InvalidRequest("the messages hold no text to send", param="messages")
        if hold is not None and hold.row.chat_id is not None and hold.row.account_id is not None:
            account = self.accounts.get(hold.row.account_id)
            resume = Resume(hold.row.chat_id, hold.row.message_id)
        else:
            account = self.accounts.next()
        return _Turn(account, flatten(messages), resume, hold, digest)

    # What ChatStream tells and asks for while it runs.

    def upstream_is_there(self, upstream: Upstream) -> None:
        self._gone.pop(upstream.name, None)

    def upstream_is_gone(self, upstream: Upstream, error: GenerationGone) -> None:
        self._gone[upstream.name] = time.monotonic() + _GONE_S
        log.warning(
            "%s is not served here, so models that another protocol serves too go there first for %.0f s: %s",
            upstream.name,
            _GONE_S,
            error.message,
        )

    def chat_started(self, stream: "ChatStream", chat_id: str, message_id: str | None) -> None:
        turn = stream.turn
        if turn.hold is not None:
            if turn.resume is None:
                turn.hold.save_chat(turn.account.id, stream.upstream.name, stream.request.model, chat_id, message_id)
        elif not self._keep_chats:
            self._litter.note(stream.upstream.name, chat_id, turn.account.id)

    def attempt_ended(self, stream: "ChatStream", chat_id: str | None) -> None:
        """The turn goes on with another upstream."""
        if chat_id is not None:
            self._litter.discard(stream.upstream.name, chat_id, stream.turn.account.id)

    def turn_ended(self, stream: "ChatStream", chat_id: str | None, kinds: Sequence[str]) -> None:
        """The turn is over without having been completed, or was stateless."""
        turn = stream.turn
        if turn.hold is not None:
            # A first turn that Kimi failed never happened. One that its client left, or that a later turn
            # failed in, leaves the conversation as it was.
            never_began = turn.resume is None and (chat_id is None or isinstance(stream.error, UpstreamError))
            turn.hold.release(forget=never_began)
            if never_began and chat_id is not None:
                self._litter.note(stream.upstream.name, chat_id, turn.account.id)
                self._litter.discard(stream.upstream.name, chat_id, turn.account.id)
        elif chat_id is not None and not self._keep_chats:
            self._litter.discard(stream.upstream.name, chat_id, turn.account.id)
        for kind in kinds:
            log.info("%s sent something that this gateway does not know: %s", stream.upstream.name, kind)
            self._store.unrecognised.count(stream.upstream.name, kind, time.time())

    def _discard_chat(self, row: ConversationRow) -> None:
        if row.chat_id is not None and row.upstream is not None and row.account_id is not None:
            self._litter.note(row.upstream, row.chat_id, row.account_id)
            self._litter.discard(row.upstream, row.chat_id, row.account_id)

    def _delete_chat(self, row: LitterRow) -> None:
        upstream = self._upstreams.get(row.upstream)
        if upstream is not None:
            account = self.accounts.fresh(self.accounts.get(row.account_id))
            upstream.delete_chat(account, row.chat_id)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one turn was decided to be."""

    account: Account
    prompt: str
    resume: Resume | None
    hold: Hold | None
    system_digest: str


class ChatStream:
    """A turn that runs. Iterating gives its events in batches, each as it came; ``close`` ends it.

    A batch of Heartbeat alone says that nothing came for a moment. The last event is Finished, or GatewayError
    is raised. Everything that the turn holds is given back by ``close``, at the latest.
    """

    def __init__(
        self,
        gateway: Gateway,
        turn: _Turn,
        upstream: Upstream,
        request: ChatRequest,
        caller: Caller,
        patience: Patience,
    ) -> None:
        self.turn = turn
        self.upstream = upstream
        self.request = request
        self.error: BaseException | None = None
        # What the user is to know: wishes that the model has no form for, and what the upstream tells, so far.
        self.notices = gateway.unmet(request)
        self._gateway = gateway
        self._caller = caller
        self._patience = patience
        self._began = self._heard_at = self._looked_at = time.monotonic()
        self._first_answer_s: float | None = None
        self._early: list[Event] = []
        self._chat_id: str | None = None
        self._message_id: str | None = None
        self._unrecognised: set[str] = set()
        self._reason: str | None = None
        self._closed = False
        self._shaper = shaper(request.options, gateway.citations)
        self._pump = Pump[Event](self._run, patience.total_s)

    @property
    def prompt(self) -> str:
        return self.turn.prompt

    def wait_for_answer(self, commit: bool) -> None:
        """Returns with the first event that carries an answer, or when ``commit`` has waited long enough."""
        commit_at = self._began + self._patience.commit_after_s if commit else None
        for batch in self._events(commit_at):
            self._early += batch
            if any(not isinstance(event, Heartbeat) for event in batch):
                return
            if commit_at is not None and time.monotonic() >= commit_at:
                return

    def __iter__(self) -> Iterator[Sequence[Event]]:
        early, self._early = self._early, []
        if early:
            yield early
        if self._reason is None:
            yield from self._events(None)

    def close(self, error: BaseException | None = None) -> None:
        """Gives everything back. Safe to call again. ``error``: why the turn ended early, where it did."""
        if self._closed:
            return
        self._closed = True
        self.error = self.error or error
        if self._reason is None:
            self._pump.cancel()
        try:
            self._gateway.turn_ended(self, self._chat_id, sorted(self._unrecognised))
        except SQLAlchemyError:
            # The answer has been given or refused already: what could not be noted must not change that.
            log.exception("the end of a turn could not be noted")
        self._log_end()

    def _run(self, cancellation: Cancellation) -> Generator[Event, None, None]:
        """The upstream's events, in the reader's thread; repeated once where Kimi rejects the token before it
        has answered, with a renewed one and in the chat that may have been opened already."""
        resume = self.turn.resume
        account = self._gateway.accounts.fresh(self.turn.account)
        cancellation.check()
        answered = False
        try:
            for event in self._open(account, resume, cancellation):
                if isinstance(event, Started):
                    resume = Resume(event.chat_id, resume.message_id if resume else None)
                answered = answered or isinstance(event, TextDelta | ReasoningDelta | Finished)
                yield event
            return
        except AccountRejected as e:
            if answered or not account.renewable:
                raise
            log.info("%s; its token is renewed and the request repeated", e.message)
        account = self._gateway.accounts.after_rejection(account)
        cancellation.check()
        yield from self._open(account, resume, cancellation)

    def _open(
        self, account: Account, resume: Resume | None, cancellation: Cancellation
    ) -> Generator[Event, None, None]:
        return self.upstream.open(self.request, self.turn.prompt, account, resume, cancellation)

    def give_up(self, error: BaseException) -> None:
        """Ends this attempt, and it alone: another one takes the turn over."""
        self._closed = True
        self.error = error
        self._pump.cancel()
        self._gateway.attempt_ended(self, self._chat_id)
        self._log_end()

    def _events(self, not_later_than: float | None) -> Iterator[list[Event]]:
        """Batches until Finished; an empty wait gives a Heartbeat. Raises GatewayError, also for the client."""
        while self._reason is None:
            try:
                batch = self._take(not_later_than)
            except GatewayError:
                if self._shaper is not None and (rest := self._shaper.rest()):
                    yield rest
                raise
            now = time.monotonic()
            if batch:
                self._heard_at = now
                batch = self._note(batch)
            else:
                self._check_time(now)
            if now - self._looked_at >= self._patience.tick_s and self._reason is None:
                self._looked_at = now
                self._check_total(now)
                if self._caller.is_gone():
                    self._fail(ClientGone("the client left before the end of the answer"))
            yield batch or [HEARTBEAT]

    def _check_time(self, now: float) -> None:
        answered = self._first_answer_s is not None
        silence_s = now - self._heard_at
        if silence_s >= (self._patience.idle_s if answered else self._patience.first_event_s):
            self._fail(UpstreamTimeout(f"{self.turn.account.label}: Kimi was silent for {silence_s:.0f} s"))

    def _check_total(self, now: float) -> None:
        if now - self._began >= self._patience.total_s:
            self._fail(self._overdue())

    def _take(self, not_later_than: float | None) -> list[Event]:
        timeout_s = self._patience.tick_s
        if not_later_than is not None:
            timeout_s = max(0.001, min(timeout_s, not_later_than - time.monotonic()))
        try:
            return self._pump.take(timeout_s)
        except EndOfSource:
            # Upstream.open promises Finished or an exception: anything else is a fault of ours.
            raise RuntimeError(f"{self.upstream.name} ended without Finished") from None
        except PumpOverdue:
            # The client has not read for so long that the answer could not go on.
            self._fail(self._overdue())
        except GatewayError as e:
            if isinstance(e, GenerationGone):
                self._gateway.upstream_is_gone(self.upstream, e)
            self._fail(e)

    def _overdue(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"{self.turn.account.label}: no complete answer in {self._patience.total_s:.0f} s")

    def _note(self, batch: list[Event]) -> list[Event]:
        kept: list[Event] = []
        for event in batch:
            match event:
                case TextDelta() | ReasoningDelta():
                    kept.append(event)
                case Source():
                    if self._shaper is not None:
                        kept.append(event)
                case Heartbeat():
                    continue
                case Started(chat_id, message_id):
                    self._chat_id, self._message_id = chat_id, message_id
                    self._gateway.chat_started(self, chat_id, message_id)
                case Notice(kind):
                    if kind not in self.notices:
                        self.notices.append(kind)
                        log.warning("%s: Kimi gave notice: %s", self.turn.account.label, kind)
                case Unrecognised(kind):
                    self._unrecognised.add(kind)
                case Finished():
                    kept.append(event)
        if self._shaper is not None:
            said_all = bool(kept) and isinstance(kept[-1], Finished)
            kept = self._shaper.take(kept)
            if not said_all and kept and isinstance(kept[-1], Finished):
                # Over before Kimi has said all: it is told to stop at once, and the turn counts as answered.
                self._pump.cancel()
        if kept and isinstance(kept[-1], Finished):
            self._complete(kept[-1].reason)
        if kept and self._first_answer_s is None:
            self._first_answer_s = time.monotonic() - self._began
            self._gateway.upstream_is_there(self.upstream)
        return kept or [HEARTBEAT]

    def _complete(self, reason: str) -> None:
        """Remembered before the client is told, so that no answer is ever shown that does not count."""
        self._reason = reason
        if self.turn.hold is not None:
            self.turn.hold.complete(self.request.model, self._message_id, self.turn.system_digest)

    def _fail(self, error: GatewayError) -> NoReturn:
        # Throttling of a stateless request is for its client to wait out: its chat is deleted, nothing is doubled.
        throttled = error.retry_after_s is not None and self.turn.hold is None
        # In a chat that exists the message may have arrived before its upstream has said anything.
        may_have_arrived = self._chat_id is not None or self.turn.resume is not None
        error.sent = may_have_arrived and not throttled
        self.error = error
        raise error

    def _log_end(self) -> None:
        first = "-" if self._first_answer_s is None else f"{self._first_answer_s * 1000:.0f}"
        ended = self._reason or (
            self.error.code or type(self.error).__name__ if isinstance(self.error, GatewayError) else "left"
        )
        log.info(
            "turn model=%s upstream=%s account=%s first_ms=%s total_ms=%.0f end=%s",
            self.request.model,
            self.upstream.name,
            self.turn.account.id,
            first,
            (time.monotonic() - self._began) * 1000,
            ended,
        )
