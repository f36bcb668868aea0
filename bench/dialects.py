"""The APIs of the servers under test: OpenAI's (gateway, relays), or Kimi's own (simulator, proxy).

A turn is the same work on every server: create a chat, stream one answer, delete the chat. A gateway creates and
deletes the chat itself. Without a gateway, or through a plain proxy, the load generator does this.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import orjson

from bench.answers import Piece, envelopes_of, events_of
from bench.client import Connection, Reply
from bench.processes import Failed

PROMPT = "Please say what you have been told to say."

OnBytes = Callable[[bytes], None] | None


class Dialect(Protocol):
    """Requests an answer and reads it."""

    async def turn(self, connection: Connection, on_bytes: OnBytes = None) -> Reply:
        """Takes one turn and returns the streamed reply. ``sent_ns``: the start of the turn."""
        ...

    async def clean_up(self, connection: Connection) -> None:
        """Deletes the chat, unless the server does this itself."""
        ...

    def payloads(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Splits the bytes of a body into messages, each with the time of its last byte."""
        ...

    def text(self, payload: bytes) -> str | None:
        """The answer text in one message. None if it contains none."""
        ...

    def is_last(self, payload: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class Generation:
    """One of Kimi's protocols, and the model that a gateway serves over it.

    ``speak``: from a token of the simulator to the dialect. ``record``: from the tokens of an answer to its messages,
    with their framing.
    """

    name: str
    model: str
    stream_path: str
    stream_type: str
    speak: Callable[[str], Dialect]
    record: Callable[[list[str]], Iterable[bytes]]


# About as many as an agent offers. Kimi answers in words all the same.
_FUNCTIONS = [
    {
        "type": "function",
        "function": {
            "name": f"function_{number}",
            "description": "It does one thing of the many that an agent may want to have done. " * 4,
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string", "description": "which file"}, "limit": {"type": "integer"}},
                "required": ["path"],
            },
        },
    }
    for number in range(20)
]


class OpenAI:
    """POST /v1/chat/completions, streamed. ``offers_functions``: each request offers 20 functions."""

    def __init__(self, model: str, *, offers_functions: bool = False) -> None:
        self.model = model
        self._tools = {"tools": _FUNCTIONS} if offers_functions else {}
        self._request = self.request([{"role": "user", "content": PROMPT}])

    def request(self, messages: list[dict[str, str]], conversation: str = "") -> bytes:
        body = {"model": self.model, "stream": True, "messages": messages, **self._tools}
        path = "/v1/chat/completions" + (f"/{conversation}" if conversation else "")
        return request("POST", path, "sk-bench", orjson.dumps(body))

    async def turn(self, connection: Connection, on_bytes: OnBytes = None) -> Reply:
        return await connection.ask(self._request, on_bytes)

    async def clean_up(self, connection: Connection) -> None:
        pass

    def payloads(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        return events_of(pieces)

    def text(self, payload: bytes) -> str | None:
        if payload == b"[DONE]":
            return None
        chunk = orjson.loads(payload)
        if "error" in chunk:
            raise Failed(f"an error in the stream: {payload[:300]!r}")
        choices = chunk["choices"]
        return choices[0]["delta"].get("content") if choices else None

    def is_last(self, payload: bytes) -> bool:
        return payload == b"[DONE]"


class KimiSse:
    """Kimi's generation 1: creates a chat, takes one turn, deletes the chat, like ``app/upstreams/kimi/rest.py``."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._chats: dict[Connection, str] = {}

    async def turn(self, connection: Connection, on_bytes: OnBytes = None) -> Reply:
        created = await connection.ask(request("POST", "/api/chat", self._token, b'{"name":"bench"}'))
        chat_id = self._chats[connection] = orjson.loads(created.body())["id"]
        reply = await connection.ask(turn_request(chat_id, self._token, PROMPT), on_bytes)
        reply.sent_ns = created.sent_ns
        return reply

    async def clean_up(self, connection: Connection) -> None:
        await connection.ask(request("DELETE", f"/api/chat/{self._chats.pop(connection)}", self._token))

    def payloads(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        return events_of(pieces)

    def text(self, payload: bytes) -> str | None:
        event = orjson.loads(payload)
        return event["text"] if event["event"] == "cmpl" else None

    def is_last(self, payload: bytes) -> bool:
        return b'"all_done"' in payload


class KimiConnect:
    """Kimi's generation 2, Connect: one call creates the chat and answers, another deletes the chat."""

    def __init__(self, token: str) -> None:
        body = {
            "scenario": "SCENARIO_K2D5",
            "tools": [],
            "message": {"role": "user", "blocks": [{"text": {"content": PROMPT}}], "scenario": "SCENARIO_K2D5"},
            "options": {"thinking": False},
        }
        payload = orjson.dumps(body)
        self._token = token
        self._request = request(
            "POST", _CONNECT_CHAT, token, envelope(payload), "Connect-Protocol-Version: 1\r\n", _CONNECT_TYPE
        )
        self._replies: dict[Connection, Reply] = {}

    async def turn(self, connection: Connection, on_bytes: OnBytes = None) -> Reply:
        reply = self._replies[connection] = await connection.ask(self._request, on_bytes)
        return reply

    async def clean_up(self, connection: Connection) -> None:
        body = self._replies.pop(connection).body()
        found = _CHAT_ID.search(body)
        if not found:
            raise Failed(f"an answer without the id of its chat: {body[:300]!r}")
        chat_id = orjson.dumps({"chat_id": found[1].decode()})
        await connection.ask(request("POST", "/apiv2/kimi.chat.v1.ChatService/DeleteChat", self._token, chat_id))

    def payloads(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        return envelopes_of(pieces)

    def text(self, payload: bytes) -> str | None:
        frame = orjson.loads(payload)
        is_text = frame.get("mask", "").startswith("block.text")
        return frame["block"]["text"]["content"] if is_text else None

    def is_last(self, payload: bytes) -> bool:
        return payload == b"{}"


_CONNECT_CHAT = "/apiv2/kimi.gateway.chat.v1.ChatService/Chat"
_CONNECT_TYPE = "application/connect+json"
_CHAT_ID = re.compile(rb'"chat":\{"id":"([\w-]+)"')


def envelope(payload: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(payload).to_bytes(4, "big") + payload


def _record_sse(tokens: list[str]) -> Iterable[bytes]:
    events: list[dict[str, object]] = [
        *({"event": "cmpl", "idx_s": 0, "idx_z": 0, "text": token, "view": "cmpl"} for token in tokens),
        {"event": "all_done"},
    ]
    return [b"data: " + orjson.dumps(event) + b"\n\n" for event in events]


def _record_connect(tokens: list[str]) -> Iterable[bytes]:
    frames: list[dict[str, object]] = [
        {"op": "set", "mask": "chat", "chat": {"id": "recorded-chat"}},
        {
            "op": "set",
            "mask": "message",
            "message": {"id": "m", "role": "assistant", "status": "MESSAGE_STATUS_GENERATING"},
        },
        {"op": "set", "mask": "block.text", "block": {"id": "1", "text": {"content": tokens[0]}}},
        *(
            {
                "op": "append",
                "mask": "block.text.content",
                "eventOffset": number,
                "block": {"id": "1", "text": {"content": token}},
            }
            for number, token in enumerate(tokens[1:])
        ),
        {"op": "set", "mask": "message.status", "message": {"id": "m", "status": "MESSAGE_STATUS_COMPLETED"}},
        {"done": {}},
    ]
    return [*(envelope(orjson.dumps(frame)) for frame in frames), envelope(b"{}", 2)]


GENERATIONS = (
    Generation("sse", "k2-nosearch", "/completion/stream", "text/event-stream; charset=utf-8", KimiSse, _record_sse),
    Generation("connect", "kimi-k2.6-nosearch", _CONNECT_CHAT, _CONNECT_TYPE, KimiConnect, _record_connect),
)


def recorded_answer(generation: Generation, tokens: list[str]) -> bytes:
    """A complete answer as a chunked body, with one message per HTTP chunk, like Kimi's."""
    payloads = generation.record(tokens)
    return b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads) + b"0\r\n\r\n"


def turn_request(chat_id: str, token: str, prompt: str, more_headers: str = "") -> bytes:
    return request("POST", f"/api/chat/{chat_id}/completion/stream", token, turn_body(prompt), more_headers)


def turn_body(prompt: str) -> bytes:
    message = {"role": "user", "content": prompt}
    return orjson.dumps({"model": "k2", "use_search": False, "messages": [message], "refs": []})


def request(
    method: str,
    path: str,
    token: str,
    body: bytes = b"",
    more_headers: str = "",
    content_type: str = "application/json",
) -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{more_headers}"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
