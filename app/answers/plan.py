"""What a turn says, and where: in a new chat, in the chat of its conversation, or in a new one with its history.

Knows conversations and what was said in them. Must never know how anything is sent, nor what happens when it fails.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.accounts.pool import Accounts
from app.answers.answer import AnswerInfo
from app.chat import ChatRequest, Message, is_long
from app.concurrency.yielding import pause
from app.conversations.conversations import ConversationLease, Place, last_turn_only, unsent_messages
from app.conversations.open_chats import TakenChat
from app.errors import (
    AccountRejected,
    ChatUnknown,
    ConversationBusy,
    ConversationLost,
    GatewayError,
    InvalidRequest,
)
from app.upstreams import PreparedTurn, Resume, Upstream
from app.upstreams.routing import Router

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one turn says, and where."""

    # What the upstream has not read yet.
    messages: Sequence[Message]
    # Who may serve it, best first; and the turn as the first of them will send it.
    upstreams: Sequence[Upstream]
    prepared: PreparedTurn
    # The sites of the accounts that may serve it; None: all.
    sites: frozenset[str] | None
    # The accounts that may serve it, with digests of their tokens; empty: any usable one of the sites.
    accounts: Mapping[str, str] = field(default_factory=dict)
    # The chat that it continues.
    resume: Resume | None = None
    # For the conversation's record: what was new in this turn, and a digest of the instructions that the upstream has
    # then read.
    new_messages: Sequence[Message] = ()
    system_digest: str = ""
    # Where it stands in its conversation; None for a stateless request.
    place: Place | None = None
    # It continues the open chat of a stateless request, in place of which a new one will do.
    is_continued: bool = False


class Planner:
    """Makes plans. One object per process."""

    def __init__(self, router: Router, accounts: Accounts) -> None:
        self._router = router
        self._accounts = accounts

    def plan(self, request: ChatRequest, conversation: ConversationLease | None, info: AnswerInfo) -> Plan:
        """``conversation``: the conversation, None for a stateless request. ``info`` learns where a history came
        from.

        Raises:
            InvalidRequest: if there is nothing to say, or the model cannot continue the chat, or the conversation
                cannot continue from the turn that the request names.
            ConversationBusy: if the conversation has another number of turns than the request expects.
            ConversationLost, AccountRejected: if the conversation cannot continue, saying what to do.
        """
        if conversation is None:
            return self._new_chat(request, request.messages, ())
        row = conversation.row
        if request.after_turn not in (None, row.turns):
            raise ConversationBusy("another turn of this conversation came in between", retry_after_s=1)
        needs_pauses = is_long(request.messages)
        if needs_pauses:
            pause()
        place = conversation.place(request)
        if needs_pauses:
            pause()
        new, digest = _unsent(conversation, place, request)
        if row.chat_id is None or row.account_id is None or row.upstream is None:
            return replace(self._new_chat(request, new, new), system_digest=digest, place=place)
        message_id, known_tools = row.message_id, conversation.known_tools
        if place.branch is not None:
            log.info("conversation_branched turn=%d of=%d", place.after, row.turns)
            # What its chat has read about functions by then is not known.
            message_id, known_tools = place.branch.message_id, None
            if message_id is None:
                return self._branch_in_new_chat(request, conversation, place, info)
        upstreams = self._router.for_chat(row.upstream, request.model, row.model)
        try:
            accounts = self._accounts.require(row.account_id)
        except (ConversationLost, AccountRejected) as e:
            return self.rebuild(request, conversation, e, info)
        _check_text(new, request)
        if needs_pauses:
            pause()
        prepared = upstreams[0].prepare(replace(request, known_tools=known_tools), new)
        sites = self._router.sites(upstreams, request.model)
        return Plan(new, upstreams, prepared, sites, accounts, Resume(row.chat_id, message_id), new, digest, place)

    def continued(self, request: ChatRequest, chat: TakenChat, instructions: str) -> Plan | None:
        """A stateless request in the open chat that holds what it repeats; None where the chat cannot be used.
        ``instructions``: a digest of them."""
        row = chat.row
        try:
            upstreams = self._router.for_chat(row.upstream, request.model, request.model)
            accounts = self._accounts.require(row.account_id)
        except (ConversationLost, AccountRejected, InvalidRequest):
            return None
        if not self._router.for_site(upstreams, request.model, row.site):
            return None
        new = chat.unsent(request.messages, instructions)
        if not any(_has_text(message) for message in new if message.role not in ("system", "developer")):
            return None
        prepared = upstreams[0].prepare(replace(request, known_tools=chat.known_tools, is_continued=True), new)
        sites = self._router.sites(upstreams, request.model)
        resume = Resume(row.chat_id, chat.turn.message_id)
        return Plan(new, upstreams, prepared, sites, accounts, resume, is_continued=True)

    def whole_prompt(self, request: ChatRequest) -> str:
        """The text of a stateless request in a new chat, for counting tokens."""
        return self._router.for_model(request.model)[0].prepare(request, request.messages).counted_text

    def rebuild(
        self, request: ChatRequest, conversation: ConversationLease, error: GatewayError, info: AnswerInfo
    ) -> Plan:
        """The conversation in a new chat, with the history that its client has sent or that was kept.

        Raises ``error``, or ConversationLost, if there is no history.
        """
        plan = self._with_history(request, conversation, conversation.place(request), info)
        if plan is None:
            raise _without_history(error)
        log.warning("conversation_rebuilt source=%s reason=%s", info.rebuilt_from, error.message)
        return plan

    def _branch_in_new_chat(
        self, request: ChatRequest, conversation: ConversationLease, place: Place, info: AnswerInfo
    ) -> Plan:
        """Raises InvalidRequest, ConversationLost, if there is no history."""
        plan = self._with_history(request, conversation, place, info)
        if plan is None:
            assert request.earlier_turn is not None, "where a history shows the branch, there is a history"
            raise last_turn_only(request.earlier_turn)
        return plan

    def _with_history(
        self, request: ChatRequest, conversation: ConversationLease, place: Place, info: AnswerInfo
    ) -> Plan | None:
        """The conversation in a new chat; None if there is no history. Raises ConversationLost."""
        new, digest = _unsent(conversation, place, request)
        history, source = self._history(request, conversation, place, new)
        if not history:
            return None
        site = conversation.row.site
        if site is not None and not self._accounts.has_site(site):
            raise ConversationLost(
                f"this conversation is kept at {site}, and no account of that site is in KIMI_TOKENS any more; add "
                "one, or start a new conversation"
            )
        info.rebuilt_from = source
        # What came before the first turn is in no other turn's transcript.
        kept = history if place.after == 0 else new
        return replace(self._new_chat(request, history, kept, site), system_digest=digest, place=place)

    def _history(
        self, request: ChatRequest, conversation: ConversationLease, place: Place, new: Sequence[Message]
    ) -> tuple[Sequence[Message], str]:
        """All that was said, this turn included, and where it comes from; empty if it cannot be had."""
        # A client that names an earlier turn does not repeat what was said before it.
        if request.earlier_turn is None and any(message.role == "assistant" for message in request.messages):
            return request.messages, "history"
        if place.after == 0:
            return request.messages, "request"
        transcript = conversation.transcript(place.after)
        return ((*transcript, *new) if transcript else ()), "transcript"

    def _new_chat(
        self, request: ChatRequest, messages: Sequence[Message], new: Sequence[Message], site: str | None = None
    ) -> Plan:
        """``site``: where the conversation is; None: nowhere yet."""
        _check_text(messages, request)
        if is_long(messages):
            pause()
        upstreams = self._router.for_model(request.model)
        prepared, sites = upstreams[0].prepare(request, messages), self._router.sites(upstreams, request.model)
        if site is not None:
            sites = frozenset((site,))
        return Plan(messages, upstreams, prepared, sites, new_messages=new)


def _unsent(conversation: ConversationLease, place: Place, request: ChatRequest) -> tuple[tuple[Message, ...], str]:
    """See ``unsent_messages``. Which instructions a branch has read is not known: they are sent again."""
    row = conversation.row
    return unsent_messages(row if place.branch is None else replace(row, system_digest=""), request.messages)


def _check_text(messages: Sequence[Message], request: ChatRequest) -> None:
    """Raises InvalidRequest where there is no text to send. The result of a call may be empty."""
    if not any(map(_has_text, messages)):
        field_name = request.messages_field
        raise InvalidRequest(f"{field_name}: there is no text to send", param=field_name)


def _has_text(message: Message) -> bool:
    """Whether there is something to send; the result of a call may be empty."""
    return message.role in ("tool", "function") or any(text and not text.isspace() for text in message.texts)


def _without_history(error: GatewayError) -> GatewayError:
    """The error for a conversation that cannot continue: how to repair it, and what would have helped."""
    if not isinstance(error, ChatUnknown):
        return error
    return ConversationLost(
        f"{error.message}. The conversation can only continue with its history: send all earlier messages with the "
        "next one, or start a new conversation. With STORE_TRANSCRIPTS=1, and always the same GATEWAY_SECRET, "
        "the gateway would have kept it"
    )
