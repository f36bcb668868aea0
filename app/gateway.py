"""What the public APIs ask for: answers, models, conversations. The front door of the middle.

Must never know HTTP, JSON, SQL, Flask, or any field name of OpenAI or Kimi.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.accounts.pool import Accounts
from app.accounts.standings import Language
from app.answers.answer import Answer
from app.answers.choices import Choices
from app.answers.idempotency import IdempotentAnswers
from app.answers.json_checker import JsonChecker
from app.answers.stream import AnswerTimeouts, ChatStream
from app.answers.structured import open_structured
from app.answers.tool_calling import open_calling
from app.answers.turn import Turns
from app.answers.turn_state import TurnState
from app.attachments import Attachments, Files
from app.chat import Caller, ChatRequest, Model, ToolCall, is_long
from app.concurrency.background import Cancellation
from app.concurrency.watchdog import Watchdog
from app.concurrency.yielding import pause
from app.conversations.chat_cleanup import ChatCleanup
from app.conversations.conversations import Conversations
from app.conversations.lost_chats import LostChats
from app.conversations.open_chats import OpenChats, Thread
from app.errors import ModelNotAllowed, UnknownModel
from app.ledger import live
from app.ledger.live import LiveProcess
from app.ledger.metrics import AccountFigures, Cooling, Figures
from app.request_record import UNKNOWN_MODEL
from app.settings.model_aliases import matches
from app.store import ConversationRow, Store, StoreError
from app.store.ledger import LedgerRows
from app.upstreams.routing import Router

log = logging.getLogger(__name__)

# How long ``/readyz`` waits for the database. Seconds.
_READY_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """``problems``: why no chat could be served now; empty if one could. ``public_problems``: the same without names
    of accounts. ``warnings``: what works now and will stop working. ``chinese``: the same in Chinese."""

    problems: list[str] = field(default_factory=list)
    public_problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    chinese: "Readiness | None" = None

    def in_language(self, language: Language) -> "Readiness":
        return self.chinese or self if language == "zh" else self


class Gateway:
    """Opens answers. One object per process, used by all requests at once."""

    def __init__(
        self,
        turns: Turns,
        router: Router,
        accounts: Accounts,
        conversations: Conversations,
        open_chats: OpenChats,
        cleanup: ChatCleanup,
        lost_chats: LostChats,
        idempotent: IdempotentAnswers,
        json_checker: JsonChecker,
        store: Store,
        timeouts: AnswerTimeouts,
        watchdog: Watchdog,
        attachments: Attachments,
        files: Files,
        account_streams: int,
    ) -> None:
        """``account_streams``: how many answers an account gives at a time, for figures."""
        self._attachments = attachments
        self.files = files
        self.json_checker = json_checker
        self._turns = turns
        self._router = router
        self._accounts = accounts
        self._conversations = conversations
        self._open_chats = open_chats
        self._cleanup = cleanup
        self._lost_chats = lost_chats
        self._idempotent = idempotent
        self._store = store
        self._timeouts = timeouts
        self._watchdog = watchdog
        self._account_streams = account_streams
        self._readiness: Readiness | None = None
        self._looked_at = 0.0
        self._looking = threading.Lock()

    # Answers

    def open(self, request: ChatRequest, caller: Caller, *, commit: bool, choices: int = 1) -> Answer:
        """Begins a turn and returns while Kimi thinks, so that the response can be prepared meanwhile.

        ``commit``: the status may go out after COMMIT_AFTER_S without a part of the answer. ``choices``: how many
        answers are wanted, each in a turn of its own. The caller must ``close`` the answer. Raises GatewayError;
        ``wait_for_answer`` of the answer may still raise one.
        """
        request = self._accepted(request, caller)
        if choices == 1:
            return self._open_once(request, caller, commit)
        return Choices(lambda who: self._open_once(request, who, commit), caller, choices)

    def _accepted(self, request: ChatRequest, caller: Caller) -> ChatRequest:
        """The request for upstreams, after the checks of its model and its content. Raises GatewayError."""
        # Each of these steps may take some 30 ms if the request is long.
        needs_pauses = is_long(request.messages)
        if needs_pauses:
            pause()
        request, asked_for = self._with_real_model(request), request.model
        record = caller.record
        record.is_renamed = request.model != asked_for
        record.is_answer, record.model, record.conversation_id = True, request.model, request.conversation_id
        try:
            self._router.check(request)
        except UnknownModel:
            # What the client calls it may be anything.
            record.model = UNKNOWN_MODEL
            raise
        _check_allowed(request.model, caller)
        request = _for_upstreams(self._attachments.resolve(request, caller.owner))
        if needs_pauses:
            pause()
        return request

    def _open_once(self, request: ChatRequest, caller: Caller, commit: bool) -> Answer:
        """One answer, by the Idempotency-Key of the caller, if there is one."""
        if caller.idempotency_key is None:
            return self._open(request, caller, commit)

        def open_certain(who: Caller) -> Answer:
            answer = self._open(request, who, commit)
            answer.wait_for_answer()
            return answer

        return self._idempotent.open(caller.idempotency_key, request, caller, open_certain, commit=commit)

    def prompt_text(self, request: ChatRequest) -> str:
        """The text that an upstream would be sent for this request, for counting tokens. Raises UnknownModel,
        InvalidRequest."""
        request = self._with_real_model(request)
        self._router.check(request)
        request = _for_upstreams(self._attachments.marked(request))
        return self._router.for_model(request.model)[0].prepare(request, request.messages).counted_text

    def _with_real_model(self, request: ChatRequest) -> ChatRequest:
        model = self._router.resolve(request.model)
        return request if model == request.model else replace(request, model=model)

    def end_within(self, seconds: float) -> None:
        """Turns that still run then are ended, each with an error that says so: the process ends soon after."""
        self._timeouts.ends_at = time.monotonic() + seconds

    def _open(self, request: ChatRequest, caller: Caller, commit: bool) -> Answer:
        thread = self._open_chats.thread(request, caller)
        amend = _no_amendment if thread is None else thread.amend

        def begin(request: ChatRequest, caller: Caller, *, commit: bool) -> Answer:
            return self._begin(request, caller, thread, commit=commit)

        def begin_text(request: ChatRequest, caller: Caller, *, commit: bool) -> Answer:
            stream = begin(request, caller, commit=commit)
            stream.wait_for_answer()
            return stream

        def begin_worded(request: ChatRequest, caller: Caller, *, commit: bool) -> Answer:
            if request.options.format is None:
                return begin(request, caller, commit=commit)
            return open_structured(begin_text, self.json_checker, request, caller, amend, commit=commit)

        if not _may_hold_calls(request):
            return begin_worded(request, caller, commit=commit)
        return open_calling(begin_worded, request, caller, amend, commit=commit)

    def _begin(self, request: ChatRequest, caller: Caller, thread: Thread | None, *, commit: bool) -> ChatStream:
        unmet = [*request.notices, *self._router.unmet(request.model, request.options)]
        turn = TurnState(request, caller, thread)
        stream = ChatStream(self._turns, turn, self._timeouts, self._watchdog, unmet, commit=commit)
        stream.wait_for_first_sign()
        return stream

    # Models

    @property
    def models(self) -> list[Model]:
        """Those that there are, and their exact other names."""
        return self._router.listed_models

    def models_of(self, caller: Caller) -> list[Model]:
        """Those of ``models`` that the API key may use."""
        return [model for model in self.models if may_use(caller.models, self._router.resolve(model.id))]

    def model(self, model_id: str, caller: Caller) -> Model:
        """Raises UnknownModel, with the ids that exist. Raises ModelNotAllowed."""
        model = self._router.model(model_id)
        _check_allowed(self._router.resolve(model_id), caller)
        return model

    # Conversations

    def find_conversation(self, owner: str, conversation_id: str) -> ConversationRow:
        """Raises UnknownConversation."""
        return self._conversations.find(owner, conversation_id)

    def is_busy(self, row: ConversationRow) -> bool:
        """Whether a turn of the conversation runs now."""
        return self._conversations.is_busy(row)

    def forget_conversation(self, caller: Caller, conversation_id: str) -> None:
        """Deletes the conversation, and has its Kimi chat deleted.

        Raises:
            UnknownConversation
            ConversationBusy: if a turn of it does not end in time.
            ConversationTaken: if another process may have it.
            StoreError
        """
        row = self._conversations.find(caller.owner, conversation_id)
        with self._conversations.lease(caller, conversation_id, row.model, Cancellation()) as lease:
            lease.delete()
        self._discard_chat(lease.row)

    # What was done and is done

    @property
    def history(self) -> LedgerRows:
        """The requests that have ended, their sums and tallies."""
        return self._store.ledger

    def live_processes(self) -> list[LiveProcess]:
        """What all processes are doing, on all machines; those of older gateways say nothing."""
        states = self._store.processes.states().items()
        return [state for id_, text in states if (state := live.parse(id_, text)) is not None]

    def figures(self, key_names: Mapping[str, str]) -> Figures:
        """What ``/metrics`` shows, except what every process knows itself. ``key_names``: owner → name."""
        now, labels = self._store.database.now(), self._accounts.labels()
        deletions = {row.account_id: row for row in self._store.figures.deletions(now)}
        expiries = self._accounts.expiries()
        accounts = []
        for standing in self._accounts.standings():
            if standing.model:
                continue
            chats = deletions.get(standing.account_id)
            token_until, login_until = expiries.get(standing.account_id, (None, None))
            accounts.append(
                AccountFigures(
                    standing.label,
                    standing.kind,
                    None if token_until is None else token_until - now,
                    None if login_until is None else login_until - now,
                    self._account_streams,
                    chats.due if chats else 0,
                    chats.failing if chats else 0,
                )
            )
        cooling = [
            Cooling(labels.get(row.account_id, row.account_id) or "all", row.scope or "all", row.until - now)
            for row in self._store.figures.cooldowns(now)
        ]
        queue = self._store.figures.queue()
        return Figures(
            self._store.ledger.tallies(),
            self.live_processes(),
            accounts,
            cooling,
            queue.waiting,
            max(0.0, now - queue.oldest_at) if queue.waiting else 0.0,
            {(row.upstream, row.kind): row.times for row in self._store.unrecognised.all()},
            {"account": labels, "key": key_names},
        )

    # Health and background work

    def readiness(self, max_age_s: float) -> Readiness:
        """Whether a chat could be served, as it was at most ``max_age_s`` ago: each look writes to the database."""
        # One thread looks, the others wait for it.
        with self._looking:
            if self._readiness is None or time.monotonic() - self._looked_at >= max_age_s:
                self._readiness = self._look()
                self._looked_at = time.monotonic()
            return self._readiness

    def _look(self) -> Readiness:
        try:
            # Longer than another process writes into a healthy SQLite file; shorter than who asks waits.
            with self._store.database.retrying_for(_READY_WITHIN_S):
                self._accounts.reload()
                self._store.check_writable()
                accounts = self._accounts
                if accounts.has_usable():
                    return Readiness(
                        warnings=accounts.warnings(), chinese=Readiness(warnings=accounts.warnings("zh"))
                    )
                return Readiness(
                    accounts.problems(),
                    ["no Kimi account can be used now"],
                    chinese=Readiness(accounts.problems("zh"), ["现在没有可用的 Kimi 账号"]),
                )
        except StoreError as e:
            problem = f"the database cannot be written ({e.driver_error})"
        except Exception as e:  # a fault of ours: the log has the traceback
            log.exception("readiness_check_failed")
            problem = f"the gateway itself failed during this check ({type(e).__name__}); see its log"
        return Readiness([problem], [problem])

    def start_background_work(self) -> None:
        """Deletes chats that a killed worker left, chats and conversations that were not used for too long, and kept
        answers that are too old."""
        self._cleanup.start()
        self._lost_chats.start()
        self._open_chats.start_expiry()
        self._idempotent.start_expiry()
        self.files.start()
        self._conversations.start_expiry(self._discard_chat)

    def _discard_chat(self, row: ConversationRow) -> None:
        if row.chat_id is not None and row.upstream is not None and row.account_id is not None:
            # It was noted with the loss of the conversation.
            self._cleanup.discard(row.upstream, row.chat_id, row.account_id)


def may_use(models: Sequence[str], model_id: str) -> bool:
    """``models``: with ``*`` for any characters; empty for all."""
    return not models or any(matches(pattern, model_id) for pattern in models)


def _check_allowed(model_id: str, caller: Caller) -> None:
    """Raises ModelNotAllowed: if the API key may not use the model."""
    if not may_use(caller.models, model_id):
        raise ModelNotAllowed(
            f"this API key may not use the model '{model_id}'; it may use {', '.join(caller.models)}", param="model"
        )


def _for_upstreams(request: ChatRequest) -> ChatRequest:
    """With options that say whether functions are offered: the form of a model may depend on it."""
    if not request.offers_tools:
        return request
    return replace(request, options=replace(request.options, offers_tools=True))


def _no_amendment(_text: str, _calls: Sequence[ToolCall]) -> None:
    """For an answer whose chat does not stay open."""


def _may_hold_calls(request: ChatRequest) -> bool:
    """Whether the answer may hold calls: there are functions, or Kimi has seen calls and may imitate them."""
    return (
        bool(request.tools)
        or request.conversation_id is not None
        or any(message.tool_calls or message.role in ("tool", "function") for message in request.messages)
    )
