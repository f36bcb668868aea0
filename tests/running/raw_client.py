"""A client on a bare socket."""

import json
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

from tests.running.gateway import Gateway
from tests.running.leaks import CANARY


class RawClient:
    """A client that can leave in any way: by closing (FIN) or by resetting (RST) its connection."""

    def __init__(
        self,
        gateway: Gateway,
        stream: bool,
        path: str = "/v1/chat/completions",
        model: str | None = None,
        **more: Any,
    ) -> None:
        address = urlsplit(gateway.url)
        messages = [{"role": "user", "content": CANARY}]
        body = json.dumps({"model": model or gateway.model, "stream": stream, "messages": messages, **more}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket = socket.create_connection((address.hostname, address.port), timeout=30)
        self.socket.sendall(head.encode() + body)
        self._got = bytearray()

    def read_until(self, wanted: bytes, times: int = 1) -> bytes:
        """Everything so far, as soon as ``wanted`` is in it so many times."""
        while self._found(wanted) < times:
            piece = self.socket.recv(1 << 20)
            assert piece, f"the server closed before {wanted!r}: {bytes(self._got[-2000:])!r}"
            self._got += piece
        return bytes(self._got)

    def _found(self, wanted: bytes) -> int:
        # A large answer is searched from its end: counting all of it for each piece would take minutes.
        return self._got.count(wanted) if len(self._got) < 1 << 20 else self._got.count(wanted, -(1 << 20) - 100)

    def leave(self, how: str) -> None:
        if how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
