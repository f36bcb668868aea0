"""The SSE generation's turn: `POST /api/chat/{id}/completion/stream`, and `continue`.

Knows the request (sections 3.2 and 3.9 of the protocol notes) and everything that can refuse it. Must never know
an event of the answer, or how an answer is thought up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from app.simulator.answers import Answer, Question, compose
from app.simulator.http1 import Reply, Request, json_reply
from app.simulator.knobs import BadKnob, Knobs, split_prompt, turned
from app.simulator.simulation import Exchange
from app.simulator.sse_errors import MODELS, STREAM_FAULTS, refusal, refuse
from app.simulator.sse_events import SSEVoice
from app.simulator.turns import Turn, perform
from app.simulator.world import Chat, Leftover, Message

_THINKING_MODELS = ("k1", "k1.5-thinking")
_THINKING_AGENT = "crm40ee9e5jvhsn7ptcg"  # the Dec-2024 way to ask for k1

_URL_WRAPPING = re.compile(r"<url [^>]*>(.*?)</url>", re.DOTALL)  # the 2024 web app's way to get a page read


@dataclass(frozen=True, slots=True)
class _Demand:
    """A parsed turn request."""

    prompt: str
    model: str
    thinks: bool
    searches: bool
    refs: tuple[str, ...]
    segment_id: str
    """The user's message whose answer is to be continued; empty for a new turn."""
    sent: str = ""
    """The prompt with its words to the simulator."""


class _Refused(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


async def complete(exchange: Exchange, chat_id: str) -> None:
    """Answers one turn."""
    try:
        turn, voice = _prepare(exchange, chat_id)
    except _Refused as refused:
        await exchange.connection.send(refused.reply)
        return
    await perform(exchange, turn, voice)


def _prepare(exchange: Exchange, chat_id: str) -> tuple[Turn, SSEVoice]:
    """Everything that happens before the first byte; raises _Refused."""
    sim, demand = exchange.sim, _parse(exchange.request)
    chat = exchange.own_chat(chat_id)
    leftover = chat.leftovers.get(demand.segment_id) if chat else None
    demand, words, knobs = _understand(demand, leftover, sim.knobs)
    fault = sim.fault("turn", exchange.account, knobs, words, demand.prompt)
    _refuse_on_purpose(fault, knobs, exchange.request.path)
    if chat is None:
        raise _Refused(missing(exchange, chat_id, knobs))
    if demand.model and demand.model not in MODELS:
        raise _Refused(refuse("model_422"))
    if knobs.unknown_file == "refuse" and not all(_is_own_file(exchange, ref) for ref in demand.refs):
        # Invented: it was never recorded.
        raise _Refused(json_reply({"error_type": "file.not_found", "message": "文件不存在"}, 400))
    if sim.refuses(chat, knobs):
        raise _Refused(refuse("stream_pushing"))
    if demand.segment_id:
        if leftover is None:
            raise _Refused(refuse("not_found", "没有可以继续的内容"))
        return _continued(exchange, chat, demand, leftover, knobs, fault)
    return _answered(exchange, chat, demand, words, knobs, fault)


def _is_own_file(exchange: Exchange, file_id: str) -> bool:
    file = exchange.sim.world.files.get(file_id)
    return file is not None and file.registered and file.owner is exchange.account


def missing(exchange: Exchange, chat_id: str, knobs: Knobs) -> Reply:
    """The refusal of a chat that does not exist, or is somebody else's (Q25)."""
    forbidden = exchange.is_foreign(chat_id) and knobs.foreign_chat == "forbidden"
    return refuse("forbidden_chat" if forbidden else "not_found")


def _parse(request: Request) -> _Demand:
    try:
        return _demand(request.json_object())
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise _Refused(refuse("bad_request", f"请求参数错误: {error!r}")) from error


def _demand(body: dict[str, Any]) -> _Demand:
    message = body["messages"][0]  # only the first one is read, whatever follows
    if message["role"] != "user" or not isinstance(message["content"], str) or not message["content"]:
        raise ValueError("expected a user message with text")
    model = str(body.get("model") or "")
    return _Demand(
        prompt=message["content"],
        model=model,
        thinks=model in _THINKING_MODELS or body.get("kimiplus_id") == _THINKING_AGENT,
        searches=bool(body.get("use_search")),
        refs=tuple(str(ref) for ref in body.get("refs") or ()),
        segment_id=str(body["segment_id"]) if body.get("action") == "continue" else "",
    )


def _understand(
    demand: _Demand, leftover: Leftover | None, run_knobs: Knobs
) -> tuple[_Demand, dict[str, str], Knobs]:
    """The demand without its words to the simulator, those words, and the knobs as they turn them."""
    try:
        prompt, words = split_prompt(demand.prompt)
        words = leftover.words if leftover else words
        return replace(demand, prompt=prompt, sent=demand.prompt), words, turned(run_knobs, words)
    except BadKnob as error:
        raise _Refused(json_reply({"error_type": "sim.bad_knob", "message": str(error)}, 400)) from error


def _refuse_on_purpose(fault: str, knobs: Knobs, path: str) -> None:
    refused = refusal(fault, knobs, path)
    if refused:
        raise _Refused(refused)
    if fault and fault not in STREAM_FAULTS:
        message = f"the SSE generation has no fault {fault!r}"
        raise _Refused(json_reply({"error_type": "sim.bad_knob", "message": message}, 500))


def _answered(
    exchange: Exchange, chat: Chat, demand: _Demand, words: dict[str, str], knobs: Knobs, fault: str
) -> tuple[Turn, SSEVoice]:
    world = exchange.sim.world
    group_id, question_id, answer_id = world.ids.xids(3)
    files = [world.files[ref].described if ref in world.files else ref for ref in demand.refs]
    earlier = [message.text for message in chat.messages.values() if message.role == "user"]
    question = Question(_URL_WRAPPING.sub(r"\1", demand.prompt), earlier, files, demand.thinks, demand.searches)
    answer = compose(question, knobs, exchange.sim.tooling.speak(question.prompt, earlier, knobs))
    tokens = _with_citations(answer) if knobs.cite else answer.tokens
    parent = chat.latest("assistant")
    chat.add(Message(question_id, parent.id if parent else "", "user", demand.prompt, sent=demand.sent))
    message = chat.add(
        Message(answer_id, question_id, "assistant", thinking="".join(answer.thoughts), pages=answer.pages)
    )
    told = _keep_leftover(chat, question_id, Leftover(group_id, tokens, words, knobs.length_times), knobs)
    first = chat.turns == 0
    _count(exchange, chat, fault)
    opening = (
        {
            "content": demand.prompt,
            "event": "req",
            "group_id": group_id,
            "id": question_id,
            "refs": list(demand.refs),
        },
        {"event": "resp", "group_id": group_id, "id": answer_id},
    )
    voice = SSEVoice(knobs, fault, opening, replace(answer, tokens=told), first, len(told) < len(tokens))
    return _turn(exchange, chat, message, voice, knobs, fault), voice


def _continued(
    exchange: Exchange, chat: Chat, demand: _Demand, leftover: Leftover, knobs: Knobs, fault: str
) -> tuple[Turn, SSEVoice]:
    answer_id = exchange.sim.world.ids.xid()
    message = chat.add(Message(answer_id, demand.segment_id, "assistant"))
    told = _keep_leftover(chat, demand.segment_id, leftover, knobs)
    _count(exchange, chat, fault)
    req = {
        "content": " ",
        "event": "req",
        "group_id": leftover.group_id,
        "id": demand.segment_id,
        "refs": [],
    }
    resp = {"event": "resp", "group_id": leftover.group_id, "id": answer_id}
    opening = (req, resp) if knobs.req_on_continue else (resp,)
    voice = SSEVoice(knobs, fault, opening, Answer("", (), (), told), False, len(told) < len(leftover.tokens))
    return _turn(exchange, chat, message, voice, knobs, fault), voice


def _keep_leftover(chat: Chat, question_id: str, whole: Leftover, knobs: Knobs) -> tuple[str, ...]:
    """The tokens told now; what `length` holds back is kept under the question."""
    chat.leftovers.pop(question_id, None)
    limit = knobs.length_after
    if limit is None or whole.lengths_left <= 0 or len(whole.tokens) <= limit:
        return whole.tokens
    chat.leftovers[question_id] = replace(whole, tokens=whole.tokens[limit:], lengths_left=whole.lengths_left - 1)
    return whole.tokens[:limit]


def _count(exchange: Exchange, chat: Chat, fault: str) -> None:
    assert exchange.account
    exchange.account.turns += 1
    chat.turns += 1
    chat.moderated |= fault.startswith("moderated")


def _turn(exchange: Exchange, chat: Chat, message: Message, voice: SSEVoice, knobs: Knobs, fault: str) -> Turn:
    assert exchange.account
    return Turn(exchange.account, chat, message, voice.tokens, knobs, fault)


def _with_citations(answer: Answer) -> tuple[str, ...]:
    """The tokens with `[^1^]` markers before the last one, each in three tokens as the service cuts them."""
    markers = [part for number in range(1, len(answer.pages) + 1) for part in ("[", f"^{number}^", "]")]
    return (*answer.tokens[:-1], *markers, *answer.tokens[-1:])
