"""One try of a turn on one account: open the upstream, shape what it emits, remember it, emit it.

    lease → token that works → first upstream that is there → events → shape → remember → emit

Everything is remembered before it is emitted: the client never sees an answer that a killed worker would not know of.
A chat that is opened is noted for deletion at once, or belongs to its conversation at once. Within an attempt only
two things are repeated, both before any part of an answer: the other protocol where one is not served, and the same
request with a renewed token where the token was rejected. Must never know HTTP, JSON, SQL, or what follows a failure.
"""

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.accounts.leases import Lease, Leases
from app.accounts.pool import Accounts
from app.answers.json_checker import JsonChecker
from app.answers.plan import Plan
from app.answers.shaping import Shaper, shaper
from app.answers.tool_reading import ToolReading
from app.answers.turn_state import TurnState
from app.chat import (
    HEARTBEAT,
    CitationStyle,
    Event,
    Finished,
    ReasoningDelta,
    Source,
    Started,
    TextDelta,
    ToolCall,
    Unrecognised,
)
from app.concurrency import background
from app.concurrency.background import Cancellation
from app.concurrency.yielding import pause
from app.conversations.chat_cleanup import ChatCleanup
from app.conversations.conversations import CompletedTurn, ConversationChat, ConversationLease
from app.conversations.lost_chats import LostChats
from app.conversations.open_chats import AnsweredIn
from app.errors import (
    AccountRejected,
    ConversationTaken,
    ProtocolUnavailable,
    UnknownModel,
    UpstreamError,
    UpstreamProtocolError,
)
from app.request_record import SEARCHED
from app.text.held_text import TOO_MUCH_TEXT, HeldText
from app.upstreams import PreparedTurn, Resume, Upstream
from app.upstreams.account import Account
from app.upstreams.routing import Router

log = logging.getLogger(__name__)

# Events other than text that are passed on without a pause.
_OTHERS_PER_PAUSE = 16

# A longer piece of text is passed on in parts. Characters.
_LONG_PIECE = 1024
_PART = 4096
# So many characters weigh as much as a short event.
_CHARS_PER_WEIGHT = 64

# Kinds of frames that one turn may name as unrecognised.
_MAX_UNRECOGNISED = 20
# How often an answer may name its chat, or itself, anew. Kimi does it twice.
_MAX_STARTS = 20


Emit = background.Emit[Event]


@dataclass(frozen=True, slots=True)
class AttemptServices:
    """What every attempt needs. One object per process."""

    router: Router
    accounts: Accounts
    leases: Leases
    cleanup: ChatCleanup
    lost_chats: LostChats
    checker: JsonChecker
    # The chats of stateless requests stay in the account's list.
    keep_chats: bool
    citations: CitationStyle
    # A limit of tokens is one of thinking, too.
    limits_thinking: bool


class Attempt:
    """One try. ``run`` is called once, and ``clean_up`` after it, however it ended."""

    # Without a dictionary: there is one for each stream.
    __slots__ = (
        *("_account", "_asked", "_began_at", "_calls", "_cancellation", "_conversation", "_emit", "_is_open"),
        *("_keeps_text", "_lease", "_message_id", "_plan", "_prepared", "_resume", "_services", "_starts", "_text"),
        *("_thread", "_turn", "_upstream", "_upstreams_end", "answered", "chat_id", "finished"),
    )

    def __init__(
        self,
        services: AttemptServices,
        turn: TurnState,
        plan: Plan,
        lease: Lease,
        conversation: ConversationLease | None,
        cancellation: Cancellation,
        emit: Emit,
    ) -> None:
        """``conversation``: the conversation of the turn. ``emit`` takes the events, and raises Cancelled where
        no one wants them any more."""
        self._services = services
        self._turn = turn
        self._plan = plan
        self._lease = lease
        self._conversation = conversation
        # The open chat of a stateless request, or the one that this attempt may leave open.
        self._thread = turn.thread if conversation is None else None
        self._cancellation = cancellation
        self._emit = emit
        self._account = services.accounts.leased(lease.account_id)
        self._upstream: Upstream = plan.upstreams[0]
        self._resume = plan.resume
        self._prepared = plan.prepared
        # What was said in a conversation, and in a chat that may stay open as far as it can be kept.
        self._text = HeldText()
        self._calls: list[ToolCall] = []
        self._keeps_text = conversation is not None or self._thread is not None
        # How the upstream has ended its answer.
        self._upstreams_end: Finished | None = None
        # The chat stays open.
        self._is_open = False
        self._starts = 0
        self._began_at = 0.0
        self.chat_id: str | None = None
        # What was asked, while Kimi may have opened a chat for it and has not named it.
        self._asked: PreparedTurn | None = None
        self._message_id: str | None = None
        # A part of the answer has been emitted.
        self.answered = False
        # The answer is complete; Kimi's stream may still be open.
        self.finished = False

    def run(self) -> None:
        """Emits the events of the turn. Returns when Kimi's stream has ended, or was closed, which may be a moment
        after the last event.

        Raises UpstreamError, ConversationTaken, Cancelled, and what ``emit`` raises.
        """
        turn, services = self._turn, self._services
        turn.account, turn.attempts = self._account, turn.attempts + 1
        turn.caller.record.account_id = self._account.id
        self._account = services.accounts.fresh(self._account)
        turn.is_queued = turn.awaits_account = turn.caller.record.is_queued = False
        upstreams = services.router.for_site(self._plan.upstreams, turn.request.model, self._account.site)
        for upstream in upstreams:
            self._upstream, turn.upstream = upstream, upstream.name
            turn.caller.record.protocol = upstream.name
            try:
                self._run_with_renewal()
                return
            except ProtocolUnavailable as e:
                services.router.mark_unavailable(upstream, self._account.site, e)
                if upstream is upstreams[-1]:
                    raise
                # It has opened none. The next one may lose the only chat of this lease.
                self._asked = None
                self.clean_up()
        raise UnknownModel(f"{self._account.site} no longer offers the model '{turn.request.model}'", param="model")

    def keep_chat(self) -> None:
        """``clean_up`` leaves the chat alone."""
        self.chat_id = self._message_id = self._asked = None

    def clean_up(self) -> None:
        """Has the attempt's chat deleted, where it is not needed any more."""
        if self.chat_id is None:
            if self._asked is not None:
                lease, lost_chats = self._lease, self._services.lost_chats
                question = lost_chats.question_of((self._upstream,), self._asked)
                if question is not None:
                    lost_chats.note(lease.id, lease.account_id, question, self._began_at)
                self._asked = None
            return
        name, account_id, cleanup = self._upstream.name, self._account.id, self._services.cleanup
        if self._is_open:
            pass
        elif self._is_temporary():
            if self._conversation is None or not self.finished:
                cleanup.discard(name, self.chat_id, account_id)
        elif self._conversation is not None and self._conversation.is_new and not self.finished:
            # The first turn of a conversation failed: the conversation never began.
            cleanup.note_and_discard(name, self.chat_id, account_id)
        self.keep_chat()

    def _run_with_renewal(self) -> None:
        """Repeated once where Kimi rejects the token before it has answered: with a renewed token, and in the chat
        that may have been opened already."""
        try:
            self._stream()
            return
        except AccountRejected as e:
            if self.answered or not self._account.renewable:
                raise
            log.info("token_rejected account=%s renewing=1 error=%s", self._account.id, e.message)
        self._account = self._services.accounts.after_rejection(self._account)
        if self.chat_id is not None:
            self._resume = Resume(self.chat_id, self._resume.message_id if self._resume else None)
        self._cancellation.check()
        self._stream()

    def _renewed(self, account: Account) -> Account:
        """The account with another token than the one that was just rejected. Raises UpstreamError."""
        if not account.renewable:
            raise AccountRejected(f"{account.label}: nothing renews its token")
        return self._services.accounts.after_rejection(account)

    def _stream(self) -> None:
        turn, upstream = self._turn, self._upstream
        prepared = self._prepare()
        self._prepared = prepared
        turn.info.prompt = prepared.counted_text
        if self._conversation is not None:
            self._conversation.check()
        if self._thread is not None:
            self._thread.sending()
        if self._resume is None:
            self._asked, self._began_at = prepared, self._services.lost_chats.now()
        events = upstream.open(prepared, self._account, self._resume, self._cancellation, self._renewed)
        shape = self._shaper(prepared)
        remember, emit = self._remember, self._emit
        others = 0
        with contextlib.closing(events):
            try:
                for event in events:
                    # By class and not by pattern: this happens for each token.
                    if event.__class__ is TextDelta or event.__class__ is ReasoningDelta:
                        if len(event.text) > _LONG_PIECE:
                            self._pass_on_in_parts(event, shape)
                        elif shape is not None and not shape.passes_unchanged(event):
                            self._pass_on(event, shape)
                        else:
                            remember(event)
                            emit(event)
                            continue
                    else:
                        if event is HEARTBEAT:
                            # Several in each answer of the SSE protocol. They mean nothing to what follows.
                            emit(event)
                        else:
                            self._take_note(event)
                            self._pass_on(event, shape)
                        others += 1
                        if others % _OTHERS_PER_PAUSE == 0:
                            pause()
                    if self.finished and not isinstance(event, Finished):
                        # Over before Kimi has said everything: closing its stream tells it to stop.
                        return
            except UpstreamError as e:
                if not e.reached_upstream:
                    self._asked = None
                for shaped in shape.flush() if shape is not None else ():
                    remember(shaped)
                    emit(shaped)
                raise

    def _prepare(self) -> PreparedTurn:
        """The turn as its upstream sends it."""
        plan, upstream = self._plan, self._upstream
        if upstream is plan.upstreams[0]:
            return plan.prepared
        # With the same code: its text is then the one that the lease knows, unless it sends instructions apart.
        request = replace(plan.prepared.request, code=plan.prepared.prompt.code)
        prepared = upstream.prepare(request, plan.messages)
        if self._resume is None:
            question = self._services.lost_chats.question_of((upstream,), prepared)
            if question is not None:
                self._services.leases.will_ask(self._lease, question)
        return prepared

    def _shaper(self, prepared: PreparedTurn) -> Shaper | None:
        request = prepared.request
        reading = None
        if prepared.prompt.reads_calls:
            reading = ToolReading(
                request,
                prepared.prompt,
                self._services.checker,
                shows_all=self._resume is None,
                reports_spent=request.options.max_tokens is not None,
            )
        return shaper(
            request.options, self._services.citations, reading, limits_thinking=self._services.limits_thinking
        )

    def _take_note(self, event: Event) -> None:
        match event:
            case Started():
                self._started(event)
            case Finished():
                self._upstreams_end = event
            case Source():
                self._turn.caller.record.flags |= SEARCHED
            case Unrecognised(kind) if len(self._turn.unrecognised) < _MAX_UNRECOGNISED:
                self._turn.unrecognised |= {kind}

    def _pass_on(self, event: Event, shape: Shaper | None, weight: int = 1) -> None:
        shaped_events: Sequence[Event] = (event,)
        if shape is not None:
            shaped_events = shape.take(shaped_events)
        elif isinstance(event, Source):
            return
        for shaped in shaped_events:
            if isinstance(shaped, Unrecognised):
                self._take_note(shaped)
            self._remember(shaped)
            self._emit(shaped, weight)

    def _pass_on_in_parts(self, event: TextDelta | ReasoningDelta, shape: Shaper | None) -> None:
        """What follows takes time and memory for each character, so that others must be able to run meanwhile."""
        for at in range(0, len(event.text), _PART):
            part = event.text[at : at + _PART]
            self._pass_on(event.__class__(part), shape, 1 + len(part) // _CHARS_PER_WEIGHT)
            if self.finished:
                return
            pause()

    def _remember(self, event: Event) -> None:
        """Called before the event is emitted."""
        if event.__class__ is TextDelta:
            if self._keeps_text:
                self._keep(event.text)
        elif event.__class__ is Finished:
            self._finish(event)
        elif event.__class__ is ToolCall:
            self._calls.append(event)
        elif event.__class__ is not ReasoningDelta:
            return
        if not self.answered:
            self.answered = True
            self._services.router.mark_available(self._upstream, self._account.site)
            self._services.leases.recovered(self._lease)

    def _started(self, event: Started) -> None:
        self._starts += 1
        if self._starts > _MAX_STARTS:
            raise UpstreamProtocolError(f"{self._account.label}: Kimi named more than {_MAX_STARTS} chats or answers")
        is_new = event.chat_id != self.chat_id
        self.chat_id, self._message_id, self._asked = event.chat_id, event.message_id, None
        self._turn.reached_upstream = True
        if self._conversation is not None and self._conversation.is_new:
            self._conversation.save_chat(self._chat())
        elif is_new and self._is_temporary():
            self._services.cleanup.note(self._upstream.name, event.chat_id, self._account.id)

    def _keep(self, text: str) -> None:
        try:
            self._text.add(text)
        except TOO_MUCH_TEXT:
            if self._conversation is not None:
                raise
            # A stateless answer may be of any length; its chat does not stay open.
            self._keeps_text, self._thread = False, None

    def _finish(self, event: Finished) -> None:
        # Yield first: a store call blocks the whole gevent worker, so let out what the client already has coming.
        time.sleep(0)
        if self._conversation is not None:
            self._complete(self._conversation)
        elif self._thread is not None and self.chat_id is not None and self._is_whole(event):
            upstream, account = self._upstream.name, self._account
            answered = AnsweredIn(upstream, self.chat_id, self._message_id, account.id, account.site)
            known_tools = self._prepared.prompt.known_tools
            # As in ``_keep``: the text may need more memory in one piece.
            with contextlib.suppress(*TOO_MUCH_TEXT):
                self._is_open = self._thread.complete(answered, str(self._text), self._calls, known_tools)
        self.finished = True

    def _is_whole(self, end: Finished) -> bool:
        """Whether the client got all that stands in the chat. An answer that calls functions ends with the calls,
        whatever stands behind them."""
        if end.reason == "tool_calls":
            return True
        return end.reason in ("stop", "length") and end == self._upstreams_end

    def _complete(self, conversation: ConversationLease) -> None:
        """The conversation has one more turn. Raises ConversationTaken."""
        plan, request, row = self._plan, self._turn.request, conversation.row
        assert plan.place is not None, "a conversation's turn has a place in it"
        is_moved = plan.resume is None and not conversation.is_new
        turn = CompletedTurn(
            plan.place,
            request.model,
            self._message_id,
            plan.system_digest,
            plan.new_messages,
            str(self._text),
            self._calls,
            self._prepared.prompt.known_tools,
            # The turn that it repairs may have been forgotten meanwhile.
            counts=not request.repairs_last_turn or row.turns == 0,
            new_chat=self._chat() if is_moved else None,
        )
        try:
            conversation.complete(turn)
        except ConversationTaken:
            # The other request may be using this chat.
            self.keep_chat()
            raise
        # The old chat was noted with the turn. It waits for its account where that is gone.
        if is_moved and row.chat_id and row.upstream and row.account_id in self._services.accounts.ids:
            self._services.cleanup.discard(row.upstream, row.chat_id, row.account_id)

    def _chat(self) -> ConversationChat:
        assert self.chat_id is not None, "only what was started can be saved"
        account = self._account
        return ConversationChat(
            account.id, account.site, self._upstream.name, self._turn.request.model, self.chat_id, self._message_id
        )

    def _is_temporary(self) -> bool:
        """Whether the chat goes unless it is said to stay: that of a stateless turn, and the one that is to replace
        the lost chat of a conversation."""
        if self._plan.resume is not None:
            return False
        return not self._services.keep_chats if self._conversation is None else not self._conversation.is_new
