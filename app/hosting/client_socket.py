"""The client's side of a connection: sends quickly, and reads without holding up other connections.

gevent's sockets wait only where nothing can be read or sent. A client that always has something more to send would
keep its worker from everything else, so a read also is a ``pause``. And nobody can keep a connection, and the memory
of what it has sent so far, for as long as they like: a head and a body must come in time.
"""

import errno
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gevent import socket
from gevent.ssl import SSLSocket
from gunicorn.http.errors import LimitRequestHeaders

from app.concurrency.yielding import pause

# How much is read at once of a body that is dropped.
_LINGER_PIECE = 65_536


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take: bytes and seconds."""

    # A head of a request, and how long it may take from its first byte on. The heads of browsers with many cookies
    # have 16 KB.
    head_bytes: int = 65_536
    head_s: float = 20.0
    # All incomplete heads of a worker.
    all_heads_bytes: int = 16 << 20
    # A body: the longest silence, and how long it may take in all, which is so long and one second more for each of
    # so many bytes.
    body_silence_s: float = 30.0
    body_s: float = 30.0
    body_bytes_per_s: int = 4096
    # What is read and dropped of a body after its refusal, so that a client that is still sending sees the refusal.
    linger_s: float = 5.0
    linger_bytes: int = 64 << 20
    # The most of an unread body that is read so that the connection can be used again.
    drained_bytes: int = 65_536
    # A client that has read nothing for so long may lose its connection to a new one.
    stuck_s: float = 5.0


if TYPE_CHECKING:
    _Socket = socket.socket
else:
    _Socket = object


class Heads:
    """How many bytes of incomplete heads all connections of a worker hold."""

    def __init__(self) -> None:
        self.bytes = 0


class ClientConnection(_Socket):
    """What a socket knows of its connection. A mixin for gevent's two classes of sockets."""

    # Set by ``client_socket``.
    limits: Limits
    heads: Heads
    # Whether the next request is awaited; of its head, when the first byte came, and how much has come.
    _is_in_head = False
    head_began_at: float | None = None
    head_bytes = 0
    # Of the body of the current request.
    _body_began_at = 0.0
    _body_bytes = 0
    # A body did not come in time.
    has_stalled = False
    # Since when a send waits for the client.
    stuck_since: float | None = None

    def begin_head(self) -> None:
        """What is read from now on is a head."""
        self._is_in_head, self.head_began_at = True, None

    def end_head(self) -> None:
        """What is read from now on is a body."""
        self._is_in_head, self.head_began_at = False, None
        self.heads.bytes -= self.head_bytes
        self.head_bytes = self._body_bytes = 0
        self._body_began_at = time.monotonic()

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Raises LimitRequestHeaders if a head is too large, TimeoutError if a body comes too slowly."""
        if flags:
            # Only a look, by the request that is being answered.
            return super().recv(size, flags)
        data = self._recv_head(size) if self._is_in_head else self._recv_body(size)
        pause()
        return data

    def _recv_head(self, size: int) -> bytes:
        data = super().recv(size)
        if self.head_began_at is None:
            self.head_began_at = time.monotonic()
        self.head_bytes += len(data)
        self.heads.bytes += len(data)
        # What has come behind the head is counted, too.
        if self.head_bytes > self.limits.head_bytes + size:
            raise LimitRequestHeaders(f"more than {self.limits.head_bytes} bytes")
        return data

    def _recv_body(self, size: int) -> bytes:
        limits = self.limits
        ends_at = self._body_began_at + limits.body_s + self._body_bytes / limits.body_bytes_per_s
        left_s = ends_at - time.monotonic()
        timeout = self.gettimeout()
        try:
            if left_s <= 0:
                raise TimeoutError("the body comes too slowly")
            self.settimeout(min(left_s, limits.body_silence_s))
            data = super().recv(size)
        except TimeoutError:
            self.has_stalled = True
            raise
        finally:
            self.settimeout(timeout)
        self._body_bytes += len(data)
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        # gevent asks the kernel for the size of the send buffer first. For a token, which always fits, that costs
        # more than the sending.
        sent = self.send(data, flags)
        if sent < len(data):
            self.stuck_since = time.monotonic()
            super().sendall(memoryview(data)[sent:], flags)
            self.stuck_since = None

    def linger(self) -> None:
        """Ends the sending side, then drops what still comes, for a moment. If the connection were closed at once, it
        would be reset, and the client could lose the answer."""
        deadline, left = time.monotonic() + self.limits.linger_s, self.limits.linger_bytes
        try:
            self.shutdown(socket.SHUT_WR)
            while left > 0 and (left_s := deadline - time.monotonic()) > 0:
                self.settimeout(left_s)
                data = super().recv(_LINGER_PIECE)
                if not data:
                    return
                left -= len(data)
                pause()
        except OSError:
            return


class _ClientSocket(ClientConnection, socket.socket):
    pass


class _TlsClientSocket(ClientConnection, SSLSocket):  # type: ignore[misc]  # it takes any number of arguments
    pass


def client_socket(accepted: Any, limits: Limits, heads: Heads) -> ClientConnection:
    """The accepted socket with what ``ClientConnection`` adds."""
    if isinstance(accepted, SSLSocket):
        # It cannot be detached, because only the plain connection would be left.
        accepted.__class__ = _TlsClientSocket
        client: ClientConnection = accepted  # type: ignore[assignment]  # that is its class now
    else:
        client = _ClientSocket(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
    client.limits, client.heads = limits, heads
    return client


def cut_off() -> OSError:
    """What a connection is ended with in whose place another one is accepted."""
    return ConnectionResetError(errno.ECONNRESET, "the connection was needed for another client")
