"""One small stateless turn over any upstream. Its chat is deleted afterwards.

Must never know a protocol, nor how the outcome is shown.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.accounts.pool import Accounts
from app.answers.json_checker import JsonChecker
from app.answers.shaping import Shaper
from app.answers.tool_reading import ToolReading
from app.chat import (
    ChatRequest,
    Event,
    Finished,
    FlawedCalls,
    Model,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Unrecognised,
    text_message,
)
from app.concurrency.background import Background, Cancellation, EndOfSource
from app.concurrency.watchdog import Watchdog
from app.errors import AccountRejected, GatewayError, UpstreamError, UpstreamTimeout
from app.store import Store
from app.upstreams import Upstream
from app.upstreams.account import Account

PROMPT = "Please answer with the single word: ready"

# If the doctor cannot delete a chat, the gateway deletes it after this time.
_DELETION_DUE_S = 60.0


@dataclass(frozen=True, slots=True)
class Generation:
    """An upstream with the models that it serves. The doctor asks the first one."""

    upstream: Upstream
    models: Sequence[Model]


@dataclass(slots=True)
class Outcome:
    """The result of a turn.

    ``first_s``, ``total_s``: seconds from the start to the first text, and to the end. ``renewed``: the token was
    rejected and then renewed. ``undeleted``: why the chat could not be deleted.
    """

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    error: GatewayError | None = None
    calls: list[ToolCall] = field(default_factory=list)
    # What is wrong with calls that cannot be used, each in one word.
    flaws: list[str] = field(default_factory=list)
    chats: list[str] = field(default_factory=list)
    unrecognised: set[str] = field(default_factory=set)
    first_s: float | None = None
    total_s: float = 0.0
    renewed: bool = False
    undeleted: UpstreamError | None = None


def take_turn(
    generation: Generation,
    account: Account,
    accounts: Accounts | None,
    store: Store | None,
    limit_s: float,
    request: ChatRequest | None = None,
    checker: JsonChecker | None = None,
) -> Outcome:
    """Takes the turn, within ``limit_s`` seconds. Renews a rejected token once, as the gateway does.

    ``request``: one with functions, whose calls ``checker`` checks; without it, a small question is asked. An error
    of the turn is in ``Outcome.error`` and is not raised.
    """
    request = request or ChatRequest(generation.models[0].id, (text_message("user", PROMPT),))
    outcome = _attempt(generation, account, store, limit_s, request, checker)
    if isinstance(outcome.error, AccountRejected) and account.renewable and accounts is not None:
        try:
            account = accounts.after_rejection(account)
        except UpstreamError as e:
            outcome.error = e
        else:
            rejected, outcome = outcome, _attempt(generation, account, store, limit_s, request, checker)
            outcome.renewed = True
            outcome.chats = [*rejected.chats, *outcome.chats]
    for chat_id in outcome.chats:
        _delete(generation.upstream, account, chat_id, store, outcome)
    return outcome


def _attempt(
    generation: Generation,
    account: Account,
    store: Store | None,
    limit_s: float,
    request: ChatRequest,
    checker: JsonChecker | None,
) -> Outcome:
    upstream, outcome = generation.upstream, Outcome()
    turn = upstream.prepare(request, request.messages)
    shaper = None
    if checker is not None:
        reading = ToolReading(request, turn.prompt, checker, shows_all=True, reports_spent=False)
        shaper = Shaper(request.options, "off", reading)
    began = time.monotonic()

    def ask(cancellation: Cancellation, emit: Callable[[Event], None]) -> None:
        with contextlib.closing(upstream.open(turn, account, None, cancellation)) as events:
            for event in events:
                emit(event)

    background = Background[Event](ask, Watchdog(), longest_s=limit_s)
    try:
        while True:
            left_s = began + limit_s - time.monotonic()
            if left_s <= 0:
                raise UpstreamTimeout(f"{account.label}: no complete answer within {limit_s:g} s")
            for event in background.take(left_s):
                for shaped in (event,) if shaper is None else shaper.take((event,)):
                    _note(shaped, outcome, time.monotonic() - began)
                if isinstance(event, Started) and store is not None:
                    store.pending_deletions.add(
                        upstream.name, event.chat_id, account.id, store.database.now() + _DELETION_DUE_S
                    )
    except EndOfSource:
        pass  # the reader has ended too, so all bytes were recorded
    except GatewayError as e:
        outcome.error = e
        background.cancel()
    outcome.total_s = time.monotonic() - began
    return outcome


def _note(event: Event, outcome: Outcome, at_s: float) -> None:
    if isinstance(event, TextDelta | ReasoningDelta) and outcome.first_s is None:
        outcome.first_s = at_s
    if isinstance(event, Started) and event.chat_id not in outcome.chats:
        outcome.chats.append(event.chat_id)
    elif isinstance(event, TextDelta):
        outcome.content += event.text
    elif isinstance(event, ToolCall):
        outcome.calls.append(event)
    elif isinstance(event, FlawedCalls):
        outcome.flaws += [flaw.kind for flaw in event.flaws]
    elif isinstance(event, ReasoningDelta):
        outcome.reasoning += event.text
    elif isinstance(event, Unrecognised):
        outcome.unrecognised.add(event.kind)
    elif isinstance(event, Finished):
        outcome.finish_reason = event.reason


def _delete(upstream: Upstream, account: Account, chat_id: str, store: Store | None, outcome: Outcome) -> None:
    try:
        upstream.delete_chat(account, chat_id)
    except UpstreamError as e:
        outcome.undeleted = e
    else:
        if store is not None:
            store.pending_deletions.delete(upstream.name, chat_id)
