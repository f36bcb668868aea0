"""A turn from the line of its conversation to its end: the order of waiting, attempts and remembering.

    hold the conversation → plan what to say → wait for an account → open → first word → remember

Everything up to the first word may be tried again elsewhere; what is done about a failure depends on its blame alone.
Runs in the background (``pump``), so that whoever shows the answer is never blocked. Must never know HTTP, JSON, SQL,
Flask, or any field name of OpenAI or Kimi.
"""

import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from app.accounts.leases import Lease, Leases
from app.accounts.pool import Accounts
from app.answers.shaping import shaper
from app.chat import (
    Caller,
    ChatRequest,
    CitationStyle,
    Event,
    Finished,
    Message,
    ReasoningDelta,
    Source,
    Started,
    TextDelta,
    Unrecognised,
)
from app.concurrency.background import Cancellation, Cancelled
from app.conversations.chat_cleanup import ChatCleanup
from app.conversations.conversations import Conversations, Hold, what_is_new
from app.errors import (
    AccountForbidden,
    AccountLimited,
    AccountRejected,
    ChatUnknown,
    ConversationBusy,
    ConversationLost,
    ConversationTaken,
    GatewayError,
    GenerationGone,
    InvalidRequest,
    NoAccountFree,
    RenewalFailed,
    UpstreamError,
)
from app.store import Store, StoreError
from app.store.leases import WHOLE_ACCOUNT
from app.text.prompt import flatten
from app.upstreams import Resume, Upstream
from app.upstreams.account import Account
from app.upstreams.routing import Routes

log = logging.getLogger(__name__)

Tell = Callable[[Event], None]

# The first rest of an account that is limited, and of one that was turned away for another reason. Seconds.
_LIMITED_REST_S = 5.0
_FORBIDDEN_REST_S = 60.0
# Where the upstream itself says when to come back, a second try waits so long at most. Seconds.
_LONGEST_BACKOFF_S = 5.0
# Whatever happens, one turn is not tried more often.
_MOST_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Persistence:
    """``failover_s``: no further attempt is begun later than this after the first. ``backoff_s``: before the one
    repetition where the upstream as a whole failed. ``keep_chats``: those of stateless requests, too."""

    failover_s: float
    backoff_s: float
    keep_chats: bool


@dataclass(slots=True)
class Turn:
    """A turn that runs; written by its reader, read by whoever shows the answer.

    ``waits``: it stands in some line, so that silence is not the upstream's. ``rebuilt_from``: where the history came
    from that a lost chat was replaced with. ``may_have_arrived``: the message may stand in the upstream's chat.
    """

    request: ChatRequest
    caller: Caller
    prompt: str = ""
    account: Account | None = None
    upstream: str = "-"
    attempts: int = 0
    waits: bool = True
    rebuilt_from: str | None = None
    may_have_arrived: bool = False
    # Kinds of what the upstream has said and we do not know.
    unknown: set[str] = field(default_factory=set)

    @property
    def label(self) -> str:
        return self.account.label if self.account else "no account"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be said, and where. ``resume``: in this chat, of this account and over these upstreams."""

    prompt: str
    upstreams: Sequence[Upstream]
    accounts: dict[str, str]
    resume: Resume | None
    # What was new in it, and what instructions the upstream has then read; for the conversation's record.
    said: Sequence[Message] = ()
    system_digest: str = ""


@dataclass(slots=True)
class _Attempt:
    """One try of a turn, on one account."""

    plan: _Plan
    lease: Lease
    account: Account
    upstream: Upstream
    resume: Resume | None
    chat_id: str | None = None
    message_id: str | None = None
    answered: bool = False
    finished: bool = False
    text: list[str] = field(default_factory=list)

    def forget_chat(self) -> None:
        self.chat_id = self.message_id = None


class Turns:
    """Runs turns. One object per process, used by all requests at once."""

    def __init__(
        self,
        routes: Routes,
        accounts: Accounts,
        leases: Leases,
        conversations: Conversations,
        litter: ChatCleanup,
        store: Store,
        persistence: Persistence,
        citations: CitationStyle,
    ) -> None:
        self._citations: CitationStyle = citations
        self._routes = routes
        self._accounts = accounts
        self._leases = leases
        self._conversations = conversations
        self._litter = litter
        self._store = store
        self._persistence = persistence

    def run(self, turn: Turn, cancellation: Cancellation, tell: Tell) -> None:
        """Tells the events of the turn: those of an upstream, with everything remembered before it is told.

        Raises GatewayError, Cancelled, and what ``tell`` raises. Whatever the turn holds is given back then.
        """
        request, caller = turn.request, turn.caller
        try:
            if request.conversation_id is None:
                self._attempts(turn, None, cancellation, tell)
                return
            with self._conversations.hold(caller, request.conversation_id, request.model, cancellation) as hold:
                self._attempts(turn, hold, cancellation, tell)
        finally:
            self._count(turn)

    # Attempts

    def _attempts(self, turn: Turn, hold: Hold | None, cancellation: Cancellation, tell: Tell) -> None:
        deadline = time.monotonic() + self._persistence.failover_s
        plan = self._plan(turn, hold)
        # Accounts that have failed in this turn, and those of them that waiting does not help.
        tried: set[str] = set()
        barred: set[str] = set()
        last: UpstreamError | None = None
        has_repeated = False
        while True:
            turn.waits = True
            turn.prompt = plan.prompt
            turn.may_have_arrived = plan.resume is not None
            try:
                lease = self._lease(turn, plan, tried, barred, cancellation)
            except (NoAccountFree, AccountRejected) as e:
                if last is not None:
                    raise _with_wait(last, e) from e
                if isinstance(e, AccountRejected) and hold is not None and plan.resume is not None:
                    plan = self._rebuilt(turn, hold, e)
                    continue
                raise
            attempt: _Attempt | None = None
            try:
                attempt = self._begin(turn, plan, lease)
                self._over_upstreams(turn, attempt, hold, cancellation, tell)
                return
            except Cancelled:
                # Its client left: a chat that was opened for a new conversation is there to go on with.
                if hold is not None and hold.is_new and attempt is not None and attempt.chat_id is not None:
                    hold.forget = False
                    attempt.forget_chat()
                raise
            except UpstreamError as e:
                tried.add(lease.account_id)
                if isinstance(e, AccountRejected | AccountForbidden):
                    barred.add(lease.account_id)
                last = e
                self._blame(e, lease)
                if isinstance(e, AccountLimited) and plan.resume is not None:
                    tried.clear()
                if not self._may_go_on(e, turn, attempt) or time.monotonic() > deadline:
                    raise
                if e.blame == "upstream" and has_repeated:
                    raise
                has_repeated = has_repeated or e.blame == "upstream"
                if plan.resume is not None and hold is not None and _is_lost(e):
                    plan = self._rebuilt(turn, hold, e)
                log.info("%s; attempt %d failed, the next one follows", e.message, turn.attempts)
            finally:
                try:
                    if attempt is not None:
                        self._tidy(attempt, hold)
                finally:
                    if attempt is None or not attempt.finished:
                        self._leases.release(lease)
            turn.waits = True
            if last.blame == "upstream":
                cancellation.sleep(self._backoff_s(last))

    def _may_go_on(self, error: UpstreamError, turn: Turn, attempt: _Attempt | None) -> bool:
        """Whether another attempt may follow: nothing was answered, nothing can be doubled, and it is no fault of
        the request or of ours."""
        if (attempt is not None and attempt.answered) or isinstance(error, GenerationGone):
            return False
        in_old_chat = attempt is not None and attempt.plan.resume is not None
        if error.blame in ("request", "ours"):
            return in_old_chat and isinstance(error, ChatUnknown)
        # In a chat that goes on, the message must certainly not be there yet.
        return turn.attempts < _MOST_ATTEMPTS and (not in_old_chat or error.refused or _is_lost(error))

    def _blame(self, error: UpstreamError, lease: Lease) -> None:
        """What the account has to bear of a failure."""
        told_s = error.retry_after_s if error.told_wait else None
        match error:
            case AccountRejected():
                digest = self._accounts.refused_token(lease.account_id)
                if digest is not None:
                    self._leases.refuse(lease.account_id, digest)
                    log.warning("%s; this account is not used until it has another token", error.message)
                elif not self._accounts.is_dead(lease.account_id):
                    # Its token was renewed and rejected again: nobody knows why, perhaps it passes.
                    self._rest(error, lease, WHOLE_ACCOUNT, _LIMITED_REST_S, None)
            case AccountForbidden():
                self._rest(error, lease, WHOLE_ACCOUNT, _FORBIDDEN_REST_S, told_s)
            case AccountLimited():
                scope = lease.scope if error.concerns_model else WHOLE_ACCOUNT
                base_s = max(_LIMITED_REST_S, error.retry_after_s or 0.0)
                self._rest(error, lease, scope, base_s, told_s)
            case RenewalFailed():
                # Not longer each time: it may have been renewed meanwhile, and may be the only account.
                self._rest(error, lease, WHOLE_ACCOUNT, _LIMITED_REST_S, _LIMITED_REST_S)
            case _ if error.blame == "ours":
                log.error("an answer that this gateway does not understand: %s", error.message)

    def _rest(self, error: UpstreamError, lease: Lease, scope: str, base_s: float, told_s: float | None) -> None:
        seconds = self._leases.rest(lease, scope, base_s, told_s)
        what = f"for {scope} " if scope else ""
        log.warning("%s; the account rests %s%.0f s", error.message, what, seconds)

    def _backoff_s(self, error: UpstreamError) -> float:
        base_s = self._persistence.backoff_s
        if error.told_wait and error.retry_after_s is not None:
            base_s = min(max(base_s, error.retry_after_s), _LONGEST_BACKOFF_S)
        return base_s * random.uniform(0.5, 1.5)

    def _lease(
        self,
        turn: Turn,
        plan: _Plan,
        tried: set[str],
        barred: set[str],
        cancellation: Cancellation,
    ) -> Lease:
        usable = plan.accounts or self._accounts.usable()
        accounts = {account_id: token for account_id, token in usable.items() if account_id not in barred}
        if not accounts:
            raise AccountRejected("every Kimi account that could serve this has refused")
        # Rather one that has not failed in this turn, if there is any left.
        others = {account_id: token for account_id, token in accounts.items() if account_id not in tried}
        return self._leases.lease(others or accounts, turn.request.model, turn.caller.owner, cancellation)

    def _begin(self, turn: Turn, plan: _Plan, lease: Lease) -> _Attempt:
        account = self._accounts.get(lease.account_id)
        turn.account, turn.attempts = account, turn.attempts + 1
        account = self._accounts.fresh(account)
        turn.waits = False
        return _Attempt(plan, lease, account, plan.upstreams[0], plan.resume)

    def _over_upstreams(
        self, turn: Turn, attempt: _Attempt, hold: Hold | None, cancellation: Cancellation, tell: Tell
    ) -> None:
        """The attempt over the first upstream that is there."""
        for upstream in attempt.plan.upstreams:
            attempt.upstream, turn.upstream = upstream, upstream.name
            try:
                self._with_fresh_token(turn, attempt, hold, cancellation, tell)
                return
            except GenerationGone as e:
                self._routes.is_gone(upstream, e)
                if upstream is attempt.plan.upstreams[-1]:
                    raise
                self._tidy(attempt, hold)

    def _with_fresh_token(
        self, turn: Turn, attempt: _Attempt, hold: Hold | None, cancellation: Cancellation, tell: Tell
    ) -> None:
        """The attempt; repeated once where Kimi rejects the token before it has answered, with a renewed one and in
        the chat that may have been opened already."""
        try:
            self._stream(turn, attempt, hold, cancellation, tell)
            return
        except AccountRejected as e:
            if attempt.answered or not attempt.account.renewable:
                raise
            log.info("%s; its token is renewed and the request repeated", e.message)
        attempt.account = self._accounts.after_rejection(attempt.account)
        if attempt.chat_id is not None:
            attempt.resume = Resume(attempt.chat_id, attempt.resume.message_id if attempt.resume else None)
        cancellation.check()
        self._stream(turn, attempt, hold, cancellation, tell)

    def _stream(
        self, turn: Turn, attempt: _Attempt, hold: Hold | None, cancellation: Cancellation, tell: Tell
    ) -> None:
        """Tells what the upstream says, with everything remembered before it is told."""
        events = attempt.upstream.open(
            turn.request, attempt.plan.prompt, attempt.account, attempt.resume, cancellation
        )
        shape = shaper(turn.request.options, self._citations)
        with contextlib.closing(events):
            try:
                for event in events:
                    if shape is not None and shape.lets_pass(event):
                        self._note(turn, attempt, hold, event)
                        tell(event)
                        continue
                    match event:
                        case Started():
                            self._started(turn, attempt, hold, event)
                        case Unrecognised(kind):
                            turn.unknown.add(kind)
                        case Source() if shape is None:
                            continue
                    for told in (event,) if shape is None else shape.take((event,)):
                        self._note(turn, attempt, hold, told)
                        tell(told)
                    if attempt.finished and not isinstance(event, Finished):
                        # Over before Kimi has said all: closing its stream tells it to stop.
                        return
            except UpstreamError:
                for told in shape.rest() if shape is not None else ():
                    self._note(turn, attempt, hold, told)
                    tell(told)
                raise

    def _note(self, turn: Turn, attempt: _Attempt, hold: Hold | None, event: Event) -> None:
        """Notes what the client is about to be told. By class and not by pattern: this is done for each token."""
        if event.__class__ is TextDelta:
            if hold is not None:
                attempt.text.append(event.text)
        elif event.__class__ is Finished:
            self._finished(turn, attempt, hold)
        elif event.__class__ is not ReasoningDelta:
            return
        if not attempt.answered:
            attempt.answered = True
            self._routes.is_there(attempt.upstream)
            self._leases.recovered(attempt.lease)

    def _started(self, turn: Turn, attempt: _Attempt, hold: Hold | None, event: Started) -> None:
        is_new = event.chat_id != attempt.chat_id
        attempt.chat_id, attempt.message_id = event.chat_id, event.message_id
        turn.may_have_arrived = True
        if hold is not None and hold.is_new:
            self._save_chat(turn, attempt, hold)
        elif is_new and self._is_temporary(attempt, hold):
            self._litter.note(attempt.upstream.name, event.chat_id, attempt.account.id)

    def _finished(self, turn: Turn, attempt: _Attempt, hold: Hold | None) -> None:
        """Remembered before the client is told, so that no answer is ever shown that does not count."""
        # Under gevent the store is waited for by all: what the client is told before goes out before.
        time.sleep(0)
        if hold is not None:
            plan = attempt.plan
            if plan.resume is None and not hold.is_new:
                is_ours = self._save_chat(turn, attempt, hold)
                if is_ours and attempt.chat_id is not None:
                    # From here on it is the conversation's, whatever becomes of this process.
                    self._litter.keep(attempt.upstream.name, attempt.chat_id)
            answer = "".join(attempt.text)
            try:
                hold.complete(
                    turn.request.model,
                    attempt.message_id,
                    plan.system_digest,
                    plan.said,
                    answer,
                    # What it mends may have been forgotten meanwhile.
                    counts=not turn.request.mends or hold.row.turns == 0,
                )
            except ConversationTaken:
                # Whoever took it over may be speaking in this chat.
                attempt.forget_chat()
                raise
        attempt.finished = True
        self._leases.release(attempt.lease)

    def _save_chat(self, turn: Turn, attempt: _Attempt, hold: Hold) -> bool:
        assert attempt.chat_id is not None, "only what was started can be saved"
        upstream, model = attempt.upstream.name, turn.request.model
        return hold.save_chat(attempt.account.id, upstream, model, attempt.chat_id, attempt.message_id)

    def _is_temporary(self, attempt: _Attempt, hold: Hold | None) -> bool:
        """Whether the attempt's chat goes unless it is said to stay: that of a stateless turn, and that which is to
        replace the lost one of a conversation."""
        if attempt.plan.resume is not None:
            return False
        return not self._persistence.keep_chats if hold is None else not hold.is_new

    def _tidy(self, attempt: _Attempt, hold: Hold | None) -> None:
        """Has the attempt's chat deleted where nobody needs it any more."""
        if attempt.chat_id is None:
            return
        name, account_id = attempt.upstream.name, attempt.account.id
        if self._is_temporary(attempt, hold):
            if hold is None or not attempt.finished:
                self._litter.discard(name, attempt.chat_id, account_id)
        elif hold is not None and hold.is_new and not attempt.finished:
            # A first turn that Kimi failed never happened.
            try:
                self._litter.note(name, attempt.chat_id, account_id)
            except StoreError:
                log.exception("a chat to delete could not be noted")
            self._litter.discard(name, attempt.chat_id, account_id)
        attempt.forget_chat()

    def _count(self, turn: Turn) -> None:
        for kind in sorted(turn.unknown):
            log.info("%s sent something that this gateway does not know: %s", turn.upstream, kind)
            try:
                self._store.unrecognised.count(turn.upstream, kind, time.time())
            except StoreError:
                log.exception("what was not known could not be noted")

    # Plans

    def _plan(self, turn: Turn, hold: Hold | None) -> _Plan:
        """Raises InvalidRequest, ConversationLost, and what tells why the account of a conversation is of no use."""
        messages = turn.request.messages
        if hold is None:
            return self._fresh_plan(turn, messages, ())
        row = hold.row
        if turn.request.after_turn not in (None, row.turns):
            raise ConversationBusy("another turn of this conversation came in between", retry_after_s=1)
        said, digest = what_is_new(row, messages)
        if row.chat_id is None or row.account_id is None or row.upstream is None:
            return replace(self._fresh_plan(turn, said, said), system_digest=digest)
        upstreams = self._routes.for_chat(row.upstream, turn.request.model, row.model)
        try:
            accounts = self._accounts.only(row.account_id)
        except (ConversationLost, AccountRejected) as e:
            return self._rebuilt(turn, hold, e)
        return _Plan(
            _text(said, turn.request), upstreams, accounts, Resume(row.chat_id, row.message_id), said, digest
        )

    def _fresh_plan(self, turn: Turn, messages: Sequence[Message], said: Sequence[Message]) -> _Plan:
        return _Plan(_text(messages, turn.request), self._routes.for_model(turn.request.model), {}, None, said)

    def _rebuilt(self, turn: Turn, hold: Hold, error: GatewayError) -> _Plan:
        """The conversation in a new chat, from the history that its client has sent or that was kept. Raises
        ``error`` or ConversationLost where there is none."""
        said, digest = what_is_new(hold.row, turn.request.messages)
        kept: tuple[Message, ...] = ()
        if any(message.role == "assistant" for message in turn.request.messages):
            history, source = turn.request.messages, "history"
        elif hold.row.turns == 0:
            history, source = turn.request.messages, "request"
        else:
            kept = hold.transcript()
            history, source = (*kept, *said), "transcript"
        if source == "transcript" and not kept:
            raise _lost(error)
        turn.rebuilt_from = source
        log.warning("a conversation goes on in a new chat, from its %s: %s", source, error.message)
        return replace(self._fresh_plan(turn, history, said), system_digest=digest)


def _text(messages: Sequence[Message], request: ChatRequest) -> str:
    if not any(part.strip() for m in messages for part in m.parts):
        raise InvalidRequest(f"{request.asked_in}: there is no text to send", param=request.asked_in)
    return flatten(messages)


def _is_lost(error: GatewayError) -> bool:
    """Whether the chat is of no use any more, or its account."""
    return isinstance(error, ChatUnknown | AccountRejected | AccountForbidden)


def _lost(error: GatewayError) -> GatewayError:
    """What is told where a conversation cannot go on: how to mend it, and what would have helped."""
    if isinstance(error, ChatUnknown):
        return ConversationLost(
            f"{error.message}. The conversation can only go on with its history: send all earlier messages with the "
            "next one, or start a new conversation. With STORE_TRANSCRIPTS=1, and always the same GATEWAY_SECRET, "
            "the gateway would have kept it"
        )
    return error


def _with_wait(last: UpstreamError, free: GatewayError) -> UpstreamError:
    """The failure that used up the last account, with the time after which one is free again."""
    if isinstance(last, AccountLimited) and last.retry_after_s is None:
        last.retry_after_s = free.retry_after_s
    last.rate_limit = free.rate_limit
    return last
