"""What a server under test speaks: OpenAI's API as the gateway does, or Kimi's own as the simulator does.

A turn is the same work for everybody: a new chat, one answer, and the chat deleted. A gateway does the first
and the last by itself; spoken to directly (or through a plain proxy), the load generator does them.
"""

from collections.abc import Callable
from typing import Protocol

import orjson

from bench.client import Connection, Reply
from bench.processes import Failed

PROMPT = "Please say what you have been told to say."


class Dialect(Protocol):
    """How to get an answer, and how to read it."""

    async def turn(self, connection: Connection, on_bytes: Callable[[bytes], None] | None) -> Reply:
        """The streamed reply; ``sent_ns`` is when the turn began."""
        ...

    async def clean_up(self, connection: Connection) -> None:
        """What is left to do when an answer has been read."""
        ...

    def text(self, payload: bytes) -> str | None:
        """The answer text of one SSE event."""
        ...

    def is_last(self, payload: bytes) -> bool: ...


class OpenAI:
    """POST /v1/chat/completions, streamed."""

    def __init__(self) -> None:
        body = {"model": "k2-nosearch", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
        self._request = request("POST", "/v1/chat/completions", "sk-bench", orjson.dumps(body))

    async def turn(self, connection: Connection, on_bytes: Callable[[bytes], None] | None) -> Reply:
        return await connection.ask(self._request, on_bytes)

    async def clean_up(self, connection: Connection) -> None:
        pass

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


class Kimi:
    """A new chat, its one turn, and the chat deleted: generation 1, as ``app/upstreams/kimi_rest.py`` does it."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._chats: dict[Connection, str] = {}

    async def turn(self, connection: Connection, on_bytes: Callable[[bytes], None] | None) -> Reply:
        created = await connection.ask(request("POST", "/api/chat", self._token, b'{"name":"bench"}'))
        chat_id = self._chats[connection] = orjson.loads(created.body())["id"]
        reply = await connection.ask(turn_request(chat_id, self._token, PROMPT), on_bytes)
        reply.sent_ns = created.sent_ns
        return reply

    async def clean_up(self, connection: Connection) -> None:
        await connection.ask(request("DELETE", f"/api/chat/{self._chats.pop(connection)}", self._token))

    def text(self, payload: bytes) -> str | None:
        event = orjson.loads(payload)
        return event["text"] if event["event"] == "cmpl" else None

    def is_last(self, payload: bytes) -> bool:
        return b'"all_done"' in payload


def recorded_answer(text: str, token_chars: int) -> bytes:
    """A whole answer of generation 1 as a chunked body, one event per HTTP chunk as Kimi sends it."""
    tokens = [text[at : at + token_chars] for at in range(0, len(text), token_chars)]
    events: list[dict[str, object]] = [
        *({"event": "cmpl", "idx_s": 0, "idx_z": 0, "text": token, "view": "cmpl"} for token in tokens),
        {"event": "all_done"},
    ]
    payloads = [b"data: " + orjson.dumps(event) + b"\n\n" for event in events]
    return b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads) + b"0\r\n\r\n"


def turn_request(chat_id: str, token: str, prompt: str, more_headers: str = "") -> bytes:
    return request("POST", f"/api/chat/{chat_id}/completion/stream", token, turn_body(prompt), more_headers)


def turn_body(prompt: str) -> bytes:
    message = {"role": "user", "content": prompt}
    return orjson.dumps({"model": "k2", "use_search": False, "messages": [message], "refs": []})


def request(method: str, path: str, token: str, body: bytes = b"", more_headers: str = "") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n{more_headers}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
