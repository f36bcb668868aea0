"""HTTP/1.1 as far as a stand-in needs it: requests in, whole or streamed replies out.

Knows message syntax (RFC 9112) and sockets: keep-alive, Content-Length and chunked request bodies, clients
that leave. Must never know Kimi, an account, or a knob.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 128 * 1024 * 1024
_HIGH_WATER_BYTES = 256 * 1024

ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class BadRequest(Exception):
    """The bytes are no request; the connection cannot be used any further."""


class BodyEnded(Exception):
    """The body was cut off on purpose; nothing more can be sent."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    version: str

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; raises ValueError."""
        parsed = json.loads(self.body)
        if not isinstance(parsed, dict):
            raise ValueError("expected a JSON object")
        return parsed

    @property
    def bearer(self) -> str:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_bytes(payload: object) -> bytes:
    # Prompts may hold lone surrogates, which UTF-8 has no bytes for.
    return ENCODER.encode(payload).encode("utf-8", "replace")


def json_reply(payload: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json_bytes(payload), headers=headers or {})


class Connection:
    """One client's connection; a streamed body is begun, written to, and ended in one of several ways."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: Protocol) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = protocol
        self._chunked = False
        self._keep = True

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self._keep and not self._writer.is_closing()

    async def read_request(self) -> Request | None:
        """The next request, or None when the client closed; raises BadRequest."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except asyncio.LimitOverrunError as error:
            raise BadRequest("the head is too long") from error
        method, target, version, headers = _parse_head(head)
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._read_body(headers)
        self._keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        return Request(method, unquote(url.path), query, headers, body, version)

    async def _read_body(self, headers: Mapping[str, str]) -> bytes:
        try:
            if "chunked" in headers.get("transfer-encoding", "").lower():
                return await self._read_chunks()
            length = int(headers.get("content-length", "0"))
            if not 0 <= length <= MAX_BODY_BYTES:
                raise BadRequest(f"a body of {length} bytes is not taken")
            return await self._reader.readexactly(length)
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise BadRequest(f"the body is broken: {error}") from error

    async def _read_chunks(self) -> bytes:
        body = bytearray()
        while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
            if len(body) + size > MAX_BODY_BYTES:
                raise BadRequest("the body is too long")
            body += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
        return bytes(body)

    async def send(self, reply: Reply) -> None:
        """A whole reply."""
        headers = {
            "Content-Type": reply.content_type,
            "Content-Length": str(len(reply.body)),
            **reply.headers,
        }
        self._writer.write(self._head(reply.status, headers) + reply.body)
        await self._writer.drain()

    def begin(self, status: int, headers: Mapping[str, str], framing: str) -> None:
        """Opens a streamed body; framing `length` leaves the Content-Length to the given headers."""
        self._chunked = framing == "chunked"
        if framing == "close":
            self._keep = False
        transfer = {"Transfer-Encoding": "chunked"} if self._chunked else {}
        self._writer.write(self._head(status, {**headers, **transfer}))

    async def write(self, data: bytes) -> None:
        """Body bytes in one write, and as one HTTP chunk where the body has chunks."""
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if self._writer.transport.get_write_buffer_size() > _HIGH_WATER_BYTES:
            await self._writer.drain()

    async def end(self, how: str) -> None:
        """Ends a streamed body: `clean`, `close`, `reset` or `stall` (which returns only by cancellation)."""
        if how == "clean":
            if self._chunked:
                self._writer.write(b"0\r\n\r\n")
            await self._writer.drain()
            return
        await self._flushed()
        if how == "stall":
            await asyncio.Event().wait()
        self._keep = False
        if how == "reset":
            self._reset()

    def close(self) -> None:
        self._writer.close()

    def watch(self) -> None:
        """From now on the current task is cancelled when the client leaves, or at once if it has left."""
        self._protocol.watch(asyncio.current_task())

    def unwatch(self) -> None:
        self._protocol.watch(None)

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if not self._keep:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    async def _flushed(self) -> None:
        """Returns when the kernel has every byte: closing hard throws away what it has not."""
        self._writer.transport.set_write_buffer_limits(0)
        await self._writer.drain()

    def _reset(self) -> None:
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class Protocol(asyncio.StreamReaderProtocol):
    """Tells the task that is answering when its client leaves; a reader alone would only tell a reader."""

    def __init__(self, serve: Callable[[Connection], Awaitable[None]]) -> None:
        self._answering: asyncio.Task[Any] | None = None
        self._gone = False
        super().__init__(asyncio.StreamReader(limit=MAX_HEAD_BYTES), self._connected)
        self._serve = serve

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self._serve(Connection(reader, writer, self))

    def watch(self, task: asyncio.Task[Any] | None) -> None:
        self._answering = task
        if self._gone:
            self._leave()

    def eof_received(self) -> bool:
        keep_open = bool(super().eof_received())
        self._leave()
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._leave()

    def _leave(self) -> None:
        self._gone = True
        if self._answering:
            self._answering.cancel()
            self._answering = None


def _parse_head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    first, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    try:
        method, target, version = first.split(" ")
    except ValueError as error:
        raise BadRequest(f"expected a request line, got {first!r}") from error
    headers: dict[str, str] = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return method, target, version, headers


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
