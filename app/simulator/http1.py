"""The part of HTTP/1.1 that the simulator needs: reads requests, sends whole or streamed replies.

Knows message syntax (RFC 9112) and sockets: keep-alive, Content-Length and chunked request bodies, clients
that disconnect. Must never know Kimi, an account, or a knob.
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
    """The bytes are not a valid request. The connection must be closed."""


class BodyEnded(Exception):
    """The body was cut off on purpose. Nothing more may be sent."""


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
        """The body as a JSON object. Raises ValueError: if it is not one."""
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
    # Prompts may contain lone surrogates, which UTF-8 cannot encode.
    return ENCODER.encode(payload).encode("utf-8", "replace")


def json_reply(payload: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json_bytes(payload), headers=headers or {})


class Connection:
    """The connection of one client. For a streamed body: `begin`, `write` several times, then `end`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: Protocol) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = protocol
        self._chunked = False
        self._keep_alive = True

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self._keep_alive and not self._writer.is_closing()

    async def read_request(self) -> Request | None:
        """The next request, or None if the client has closed the connection. Raises BadRequest."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except asyncio.LimitOverrunError as error:
            raise BadRequest("the request line and headers are too long") from error
        method, target, version, headers = _parse_head(head)
        if headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._read_body(headers)
        self._keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        return Request(method, unquote(url.path), query, headers, body, version)

    async def _read_body(self, headers: Mapping[str, str]) -> bytes:
        try:
            if "chunked" in headers.get("transfer-encoding", "").lower():
                return await self._read_chunks()
            length = int(headers.get("content-length", "0"))
            if not 0 <= length <= MAX_BODY_BYTES:
                raise BadRequest(f"a body of {length} bytes is not accepted")
            return await self._reader.readexactly(length)
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise BadRequest(f"the body is invalid: {error}") from error

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
        """Sends a whole reply."""
        headers = {
            "Content-Type": reply.content_type,
            "Content-Length": str(len(reply.body)),
            **reply.headers,
        }
        self._writer.write(self._head(reply.status, headers) + reply.body)
        await self._writer.drain()

    def begin(self, status: int, headers: Mapping[str, str], framing: str) -> None:
        """Sends the head of a streamed reply. `framing`: `chunked`, `close`, or `length`, which `headers` states."""
        self._chunked = framing == "chunked"
        if framing == "close":
            self._keep_alive = False
        transfer = {"Transfer-Encoding": "chunked"} if self._chunked else {}
        self._writer.write(self._head(status, {**headers, **transfer}))

    async def write(self, data: bytes) -> None:
        """Sends body bytes in one write, and as one HTTP chunk if the body is chunked."""
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if self._writer.transport.get_write_buffer_size() > _HIGH_WATER_BYTES:
            await self._writer.drain()

    async def end(self, how: str) -> None:
        """Ends a streamed body. `how`: `clean`, `close`, `reset`, or `stall`, which blocks until it is cancelled."""
        if how == "clean":
            if self._chunked:
                self._writer.write(b"0\r\n\r\n")
            await self._writer.drain()
            return
        await self._flush()
        if how == "stall":
            await asyncio.Event().wait()
        self._keep_alive = False
        if how == "reset":
            self._reset()

    def close(self) -> None:
        self._writer.close()

    def watch(self) -> None:
        """Cancels the current task when the client disconnects, or at once if it has disconnected already."""
        self._protocol.watch(asyncio.current_task())

    def unwatch(self) -> None:
        self._protocol.watch(None)

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if not self._keep_alive:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    async def _flush(self) -> None:
        """Returns when the kernel has every byte, because an abort discards the others."""
        self._writer.transport.set_write_buffer_limits(0)
        await self._writer.drain()

    def _reset(self) -> None:
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class Protocol(asyncio.StreamReaderProtocol):
    """Cancels the answering task when its client disconnects. A StreamReader would only report that to a read."""

    def __init__(self, serve: Callable[[Connection], Awaitable[None]]) -> None:
        self._answering: asyncio.Task[Any] | None = None
        self._has_disconnected = False
        super().__init__(asyncio.StreamReader(limit=MAX_HEAD_BYTES), self._connected)
        self._serve = serve

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self._serve(Connection(reader, writer, self))

    def watch(self, task: asyncio.Task[Any] | None) -> None:
        self._answering = task
        if self._has_disconnected:
            self._on_disconnect()

    def eof_received(self) -> bool:
        keep_open = bool(super().eof_received())
        self._on_disconnect()
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_disconnect()

    def _on_disconnect(self) -> None:
        self._has_disconnected = True
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
