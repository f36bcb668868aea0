"""The load generator's HTTP client: one request at a time per connection. Stores received bytes with their time.

While bytes arrive, it only looks for the end of the reply. Must never know what they mean.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

from bench.answers import Piece, unchunked
from bench.processes import Failed

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(slots=True)
class Reply:
    """One reply: its bytes and their times, not decoded. ``sent_ns``: monotonic time of the request."""

    sent_ns: int
    status: int = 0
    is_chunked: bool = False
    raw: list[Piece] = field(default_factory=list)

    def pieces(self) -> Iterable[Piece]:
        return unchunked(self.raw) if self.is_chunked else self.raw

    def body(self) -> bytes:
        return b"".join(data for _, data in self.pieces())


class Connection(asyncio.Protocol):
    """A keep-alive connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[None] | None = None
        self._reply = Reply(0)
        self._on_bytes: Callable[[bytes], None] | None = None
        self._head = b""
        self._tail = b""
        self._bytes_left = 0

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    async def ask(self, request: bytes, on_bytes: Callable[[bytes], None] | None = None) -> Reply:
        """Sends a request and returns its complete reply.

        ``on_bytes`` is called with each piece of the body when it arrives.

        Raises Failed: if the status is not 200, or the connection is lost.
        """
        assert self._transport
        self._on_bytes = on_bytes
        self._head = self._tail = b""
        self._answered = asyncio.get_running_loop().create_future()
        self._reply = Reply(time.monotonic_ns())
        self._transport.write(request)
        await self._answered
        if self._reply.status != 200:
            raise Failed(f"status {self._reply.status}: {self._reply.body()[:300]!r}")
        return self._reply

    def close(self) -> None:
        if self._transport:
            self._transport.abort()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered and not self._answered.done():
            self._answered.set_exception(Failed(f"a connection was lost during a reply ({exc!r})"))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if not self._reply.status:
            data = self._take_head(data)
            if not self._reply.status:
                return
        if data:
            self._reply.raw.append((now, data))
            if self._on_bytes:
                self._on_bytes(data)
        if self._is_complete(data) and self._answered and not self._answered.done():
            self._answered.set_result(None)

    def _take_head(self, data: bytes) -> bytes:
        """Returns the part of the data that belongs to the body. The status is 0 until the head is complete."""
        head, end, body = (self._head + data).partition(b"\r\n\r\n")
        if not end:
            self._head = head
            return b""
        head += b"\r\n"
        status = _STATUS.match(head)
        self._reply.status = int(status[1]) if status else 599
        self._reply.is_chunked = _CHUNKED.search(head) is not None
        length = _LENGTH.search(head)
        self._bytes_left = int(length[1]) if length else 0
        return body

    def _is_complete(self, data: bytes) -> bool:
        if not self._reply.is_chunked:
            self._bytes_left -= len(data)
            return self._bytes_left <= 0
        # No chunk of the servers begins with CR LF, so these bytes only occur at the end.
        self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
        return self._tail == _LAST_CHUNK
