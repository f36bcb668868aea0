"""The Connect generation's `ResumeChat` and `GetMessage`: an answer whose stream broke (kimi-protocol-2.md 5.3).

Knows the two requests and what they are answered. Must never know how an answer is thought up.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any

from app.simulator.connect import either, serves_messages, serves_resume
from app.simulator.connect_errors import end_frame, refuse
from app.simulator.connect_frames import CONTENT_TYPE, HEARTBEAT, moment
from app.simulator.delivery import Body
from app.simulator.envelope import COMPRESSED, open_envelopes, prefixes_apart
from app.simulator.generation import Recording
from app.simulator.http1 import BodyEnded, Reply, json_reply
from app.simulator.knobs import Knobs
from app.simulator.simulation import Exchange
from app.simulator.turns import tell
from app.simulator.world import Message


async def resume_chat(exchange: Exchange) -> None:
    """`ResumeChat`: the frames behind `event_offset`, and those that are still to come."""
    try:
        envelopes = open_envelopes(exchange.request.body)
        body = json.loads(envelopes[0][1])
        chat_id, message_id = either(body, "chat_id", "chatId"), either(body, "message_id", "messageId")
        offset = int(body.get("event_offset") or body.get("eventOffset") or 0)
    except (ValueError, IndexError, AttributeError):
        await _refuse(exchange, "bad_request")
        return
    chat = exchange.own_chat(chat_id)
    message = chat.messages.get(message_id) if chat else None
    recording = message.recording if message else None
    if recording is None or not recording.is_available or not serves_resume(exchange.sim.knobs):
        await _refuse(exchange, "not_found")
        return
    recording.streams += 1
    await _follow(exchange, recording, offset)


async def _refuse(exchange: Exchange, name: str) -> None:
    headers = {"Content-Type": CONTENT_TYPE}
    await tell(exchange, Knobs(), headers, [end_frame(name, Knobs())], prefixes_apart)


async def _follow(exchange: Exchange, recording: Recording, offset: int) -> None:
    """Sends what is recorded behind a frame, and what comes."""
    knobs = recording.knobs
    if 0 < knobs.end_times < recording.streams:
        knobs = replace(knobs, end="clean", end_after_bytes=None)
    body, connection = Body(exchange.connection, knobs, prefixes_apart), exchange.connection
    with exchange.sim.streaming(exchange.account):
        connection.watch()
        try:
            connection.begin(200, {"Content-Type": CONTENT_TYPE}, knobs.framing)
            await body.send(HEARTBEAT)
            sent = sum(1 for number, _ in recording.frames if number <= offset - knobs.resume_overlap)
            while recording.end is None or sent < len(recording.frames):
                while sent < len(recording.frames):
                    await body.send(recording.frames[sent][1])
                    sent += 1
                await body.flush()
                if recording.end is None and recording.has_ended:
                    break
                if recording.end is None and not await recording.wait(knobs.heartbeat_s or None):
                    await body.send(HEARTBEAT)
            if recording.end is not None:
                await body.send(recording.end)
            await body.flush()
            await connection.end(knobs.end)
        except BodyEnded:
            await connection.end("close" if knobs.end == "clean" else knobs.end)
        finally:
            connection.unwatch()


async def get_message(exchange: Exchange) -> Reply:
    """One message with its blocks, also while it is generated."""
    try:
        body = exchange.request.json_object()
    except ValueError:
        return refuse("bad_request")
    chat = exchange.own_chat(either(body, "chat_id", "chatId"))
    message = chat.messages.get(either(body, "message_id", "messageId")) if chat else None
    lost = message is not None and message.recording is not None and message.recording.is_lost
    if message is None or lost or not serves_messages(exchange.sim.knobs):
        return refuse("not_found")
    return json_reply({"message": _shown(message, as_numbers=exchange.sim.knobs.status_numbers)})


def _shown(message: Message, *, as_numbers: bool) -> dict[str, object]:
    names = {1: "MESSAGE_STATUS_GENERATING", 2: "MESSAGE_STATUS_COMPLETED", 3: "MESSAGE_STATUS_CANCELLED"}
    number = 3 if message.cancelled else 2 if message.complete else 1
    roles = {"user": 2, "assistant": 3}
    blocks: list[Any] = [{"id": "1", "text": {"content": message.text}}]
    if message.recording is not None:
        blocks = _folded(message.recording)
    return {
        "id": message.id,
        "parentId": message.parent_id,
        "role": roles[message.role] if as_numbers else message.role,
        "status": number if as_numbers else names[number],
        "scenario": message.scenario,
        "blocks": blocks,
        "createTime": moment(message.created_at),
    }


def _folded(recording: Recording) -> list[dict[str, Any]]:
    """The blocks that the frames so far add up to: `set` replaces, `append` adds (5.3)."""
    blocks: dict[str, dict[str, Any]] = {}
    for _, data in recording.frames:
        for flags, payload in open_envelopes(data):
            frame = json.loads(gzip.decompress(payload) if flags & COMPRESSED else payload)
            if "block" in frame:
                given = frame["block"]
                block = blocks.setdefault(given["id"], {"id": given["id"]})
                _fold(block, given, frame.get("mask", ""), frame.get("op", "set"))
    return list(blocks.values())


def _fold(block: dict[str, Any], given: dict[str, Any], mask: str, op: str) -> None:
    paths = [path.split(".")[1:] for path in mask.split(",")] if mask else [[name] for name in given]
    for path in paths:
        target, source = block, given
        for step in path[:-1]:
            target, source = target.setdefault(step, {}), source.get(step, {})
        value = source.get(path[-1])
        before = target.get(path[-1])
        target[path[-1]] = before + value if op == "append" and before is not None and value is not None else value
