"""The Connect generation's `Chat`: one enveloped request in, a stream of enveloped frames out.

Knows the request (section 5.2 of the protocol notes) and everything that can refuse it. Must never know a frame
of the answer, or how an answer is thought up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.simulator import edge
from app.simulator.answers import Question, compose
from app.simulator.catalogue import Choice, is_new, is_taken
from app.simulator.connect_errors import (
    BEFORE_THE_STREAM,
    END_ERRORS,
    ERRORS,
    end_frame,
    error_body,
    refusal,
    refuse,
)
from app.simulator.connect_frames import CONTENT_TYPE, GOOD_END, HEARTBEAT, ConnectVoice
from app.simulator.envelope import DATA, envelope, open_envelopes, prefixes_apart
from app.simulator.generation import Recording
from app.simulator.http1 import Reply, json_bytes, json_reply
from app.simulator.knobs import BadKnob, Knobs, split_prompt, turned
from app.simulator.simulation import Exchange
from app.simulator.turns import Turn, perform, tell
from app.simulator.world import Chat, Message, StoredFile

_THINKING_SCENARIOS = ("SCENARIO_K1", "SCENARIO_K3_THINKING")
_SEARCHING_SCENARIOS = ("SCENARIO_SEARCH", "SCENARIO_RESEARCH")
_CHAT_ID = re.compile(r"[\w-]{1,128}")


@dataclass(frozen=True, slots=True)
class _Demand:
    """A parsed `Chat` request."""

    chat_id: str
    parent_id: str
    prompt: str
    choice: Choice
    thinks: bool
    searches: bool
    file_ids: tuple[str, ...]
    system_prompt: str
    replaces: str
    """The user's message that is asked again; empty for a new one."""
    sent: str = ""
    """The prompt with its words to the simulator."""


class _Refused(Exception):
    """Refused by plain HTTP."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class _Ended(Exception):
    """Refused inside a stream that was accepted."""

    def __init__(self, frames: Sequence[bytes], knobs: Knobs) -> None:
        super().__init__()
        self.frames = frames
        self.knobs = knobs


async def chat(exchange: Exchange) -> None:
    """Answers one `Chat` call."""
    try:
        turn, voice = _prepare(exchange)
    except _Refused as refused:
        await exchange.connection.send(refused.reply)
        return
    except _Ended as ended:
        headers = {"Content-Type": CONTENT_TYPE}
        await tell(exchange, ended.knobs, headers, ended.frames, prefixes_apart)
        return
    await perform(exchange, turn, voice)


def _prepare(exchange: Exchange) -> tuple[Turn, ConnectVoice]:
    """Everything that happens before the first frame; raises _Refused and _Ended."""
    sim = exchange.sim
    if exchange.account is None:
        raise _unauthenticated(sim.knobs)
    demand = _parse(exchange.request.body, sim.knobs)
    demand, words, knobs = _understand(demand, sim.knobs)
    if not is_taken(demand.choice, knobs):
        raise _Ended([end_frame("bad_request", knobs)], knobs)
    fault = _fault(exchange, demand, knobs, words)
    _refuse_on_purpose(fault, knobs, exchange.request.path)
    known = _find_chat(exchange, demand.chat_id, knobs)
    if known and sim.refuses(known, knobs):
        raise _error_at_the_end("stream_pushing", knobs)
    return _answered(exchange, known, demand, knobs, fault)


def _fault(exchange: Exchange, demand: _Demand, knobs: Knobs, words: Mapping[str, str]) -> str:
    if knobs.fail_models and not {demand.choice.model, demand.choice.scenario} & set(knobs.fail_models.split(",")):
        return ""
    return exchange.sim.fault("turn", exchange.account, knobs, words, demand.prompt)


def _unauthenticated(knobs: Knobs) -> Exception:
    if knobs.auth_in_stream:
        return _Ended([end_frame("token_invalid", knobs)], knobs)
    return _Refused(refuse("token_invalid"))


def _parse(body: bytes, knobs: Knobs) -> _Demand:
    try:
        envelopes = open_envelopes(body)
        if len(envelopes) != 1 or envelopes[0][0] != DATA:
            raise ValueError("expected one uncompressed envelope")
        return _demand(json.loads(envelopes[0][1]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _Ended([end_frame("bad_request", knobs)], knobs) from error


def _demand(body: dict[str, Any]) -> _Demand:
    """Reads both spellings of every name, as protobuf's JSON does."""
    message, options = body["message"], body.get("options") or {}
    scenario = str(body.get("scenario") or message.get("scenario") or "")
    chat_id = either(body, "chat_id", "chatId")
    if message.get("role") != "user" or (chat_id and not _CHAT_ID.fullmatch(chat_id)):
        raise ValueError("expected a user message in a well-formed chat")
    texts = [block["text"]["content"] for block in message["blocks"] if "text" in block]
    if not texts:
        raise ValueError("expected a text block")
    effort = either(options, "reasoning_effort", "reasoningEffort")
    thinks = bool(options.get("thinking")) and effort != "REASONING_EFFORT_NONE"
    tools = {tool.get("type") for tool in body.get("tools") or []}
    agent_mode = either(body, "agent_mode", "agentMode") or either(options, "agent_mode", "agentMode")
    return _Demand(
        chat_id=chat_id,
        parent_id=either(message, "parent_id", "parentId"),
        prompt="\n".join(texts),
        choice=Choice(scenario, str(options.get("model") or ""), agent_mode),
        thinks=thinks or scenario in _THINKING_SCENARIOS,
        searches="TOOL_TYPE_SEARCH" in tools or scenario in _SEARCHING_SCENARIOS,
        file_ids=tuple(str(block["file"]["id"]) for block in message["blocks"] if "file" in block),
        system_prompt=either(options, "system_prompt", "systemPrompt"),
        replaces=str(message.get("id") or ""),
    )


def either(body: Mapping[str, Any], snake: str, camel: str) -> str:
    """A string field under either of its names; empty where it is missing."""
    return str(body.get(snake) or body.get(camel) or "")


def _understand(demand: _Demand, run_knobs: Knobs) -> tuple[_Demand, dict[str, str], Knobs]:
    """The demand without its words to the simulator, those words, and the knobs as they turn them."""
    try:
        prompt, words = split_prompt(demand.prompt)
        return replace(demand, prompt=prompt, sent=demand.prompt), words, turned(run_knobs, words)
    except BadKnob as error:
        raise _Refused(json_reply({"code": "invalid_argument", "message": f"sim: {error}"}, 400)) from error


def _refuse_on_purpose(fault: str, knobs: Knobs, path: str) -> None:
    if fault == "token_invalid":
        raise _unauthenticated(knobs)
    if fault in END_ERRORS:
        if knobs.fail_after is None:
            raise _Ended(_bare_failure(fault, knobs), knobs)
        return
    refused = edge.refusal(fault, knobs, path) if fault not in BEFORE_THE_STREAM else refusal(fault, knobs, path)
    if refused:
        raise _Refused(refused)
    if fault in ERRORS:
        raise _error_at_the_end(fault, knobs)


def _bare_failure(fault: str, knobs: Knobs) -> list[bytes]:
    """A stream that fails before the chat is even named (T9)."""
    if fault == "frame_error":
        return [HEARTBEAT, envelope(json_bytes({"error": error_body(fault, knobs)})), GOOD_END]
    done = [envelope(b'{"eventOffset":1,"done":{}}')] if fault == "error_after_done" else []
    return [HEARTBEAT, *done, end_frame(fault, knobs)]


def _error_at_the_end(name: str, knobs: Knobs) -> _Ended:
    return _Ended([HEARTBEAT, end_frame(name, knobs)], knobs)


def _find_chat(exchange: Exchange, chat_id: str, knobs: Knobs) -> Chat | None:
    """The chat to continue, or None for a new one; raises _Ended for what is not the caller's."""
    if not chat_id:
        return None
    found = exchange.own_chat(chat_id)
    if found is None:
        forbidden = exchange.is_foreign(chat_id) and knobs.foreign_chat == "forbidden"
        raise _error_at_the_end("forbidden_chat" if forbidden else "not_found", knobs)
    return found


def _answered(
    exchange: Exchange, known: Chat | None, demand: _Demand, knobs: Knobs, fault: str
) -> tuple[Turn, ConnectVoice]:
    world, account = exchange.sim.world, exchange.account
    assert account
    new_id = world.ids.xid if knobs.profile == "connect-2025" else world.ids.uuid
    parent = _parent(known, demand, knobs) if known else None
    files = _files(exchange, demand, knobs)
    conversation = known or world.new_chat(account, "Untitled Chat", "connect", new_id())
    earlier = [m.text for m in conversation.ancestry(parent.id) if m.role == "user"] if parent else []
    names = [world.files[ref].described if ref in world.files else ref for ref in demand.file_ids]
    question = Question(demand.prompt, earlier[::-1], names, demand.thinks, demand.searches)
    answer = compose(question, knobs, exchange.sim.tooling.speak(question.prompt, question.earlier, knobs))
    scenario = demand.choice.scenario or "SCENARIO_K2D5"
    asked = conversation.add(
        Message(
            new_id(),
            parent.id if parent else "",
            "user",
            demand.prompt,
            scenario=scenario,
            files=files,
            sent=demand.sent,
        )
    )
    recording = Recording(knobs) if serves_resume(knobs) or serves_messages(knobs) else None
    message = Message(
        new_id(),
        asked.id,
        "assistant",
        thinking="".join(answer.thoughts),
        pages=answer.pages,
        scenario=scenario,
        complete=False,
        recording=recording,
    )
    voice = ConnectVoice(knobs, fault, conversation, asked, message, answer)
    conversation.add(message)
    account.turns += 1
    conversation.turns += 1
    return Turn(account, conversation, message, voice.tokens, knobs, fault, recording), voice


def _parent(chat: Chat, demand: _Demand, knobs: Knobs) -> Message | None:
    """What the message follows; None: nothing, it begins the chat anew. Raises _Ended."""
    if demand.parent_id == chat.id:
        return None
    parent = chat.messages.get(demand.parent_id)
    is_refused = knobs.unknown_parent == "refuse" or (not knobs.unknown_parent and is_new(knobs))
    if is_refused and (
        (demand.parent_id and parent is None) or (demand.replaces and not chat.messages.get(demand.replaces))
    ):
        raise _error_at_the_end("message_not_found", knobs)
    if parent is None and demand.replaces in chat.messages:
        return chat.messages.get(chat.messages[demand.replaces].parent_id)
    return parent or chat.latest("assistant")


def _files(exchange: Exchange, demand: _Demand, knobs: Knobs) -> tuple[StoredFile, ...]:
    """The attached files. Raises _Ended for those that cannot be."""
    found = []
    for file_id in demand.file_ids:
        file = exchange.sim.world.files.get(file_id)
        is_unknown = file is None or file.owner not in (None, exchange.account)
        if is_new(knobs) and (
            (is_unknown and knobs.unknown_file == "refuse") or _is_agent_without_files(demand, knobs)
        ):
            raise _error_at_the_end("unknown_file", knobs)
        if file is None:
            continue
        if file.answers_left and knobs.unfinished_file == "refuse":
            raise _error_at_the_end("unfinished_file", knobs)
        found.append(file)
    return tuple(found)


def _is_agent_without_files(demand: _Demand, knobs: Knobs) -> bool:
    return bool(demand.choice.agent_mode) and not knobs.agent_files


def serves_resume(knobs: Knobs) -> bool:
    return knobs.resume == "ok" or (not knobs.resume and is_new(knobs))


def serves_messages(knobs: Knobs) -> bool:
    return knobs.get_message == "ok" or (not knobs.get_message and is_new(knobs))
