"""The file that http.client reads a connection through: small read-ahead, and a wait before a read that would block.

The reader of a stream has mostly just read everything that was there. gevent's sockets try to read again all the
same, fail, and only then wait: for each token one system call and one exception. Here the reader waits first if its
last read did not fill the buffer, which saves an eighth of a token's cost (docs/performance.md). That is right for
TLS, too: a read that does not fill the buffer has emptied its record, and nothing of the next one has left the
kernel. A sender that is always faster does not hold the worker: a read after one that filled the buffer is a pause.
Works without gevent, too. Knows sockets and gevent's loop.
"""

import io
import socket
import sys
from http.client import HTTPException
from typing import Any, Literal

from app.concurrency.yielding import pause

# Read at once: some ten tokens. http.client's own 8 KB would be kept for as long as a stream is open.
READ_AHEAD_BYTES = 2048

# Header fields of a response and of those that came before it, and its trailers.
_MAX_FIELDS = 1000

# https://www.gevent.org/api/gevent.hub.html: of the events of a loop's ``io``, "something can be read".
_READABLE = 1


class ReadSide:
    """What http.client.HTTPResponse needs of a socket: it makes a file of it, and nothing else."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: Literal["rb"]) -> io.BufferedReader:
        reader = _Reader(_Source(self._sock, self._sock.makefile(mode, 0)), READ_AHEAD_BYTES)
        reader.fields = 0
        return reader


class TooLarge(HTTPException):
    """A response has more of something than is read; the message says of what."""


_read_line = io.BufferedReader.readline


class _Reader(io.BufferedReader):
    """http.client and urllib3 ask for lines of a limited length, but for any number of trailers. ``fields``: those
    that have come."""

    # Without a dictionary: there is one object for each stream.
    __slots__ = ("fields",)
    fields: int

    def readline(self, size: int | None = -1, /) -> bytes:
        line = _read_line(self, size)
        if b":" in line or len(line) == size:
            self._check(line, size)
        return line

    def _check(self, line: bytes, size: int | None) -> None:
        if len(line) == size:
            raise TooLarge(f"a line of more than {size - 1} bytes between HTTP chunks")
        if b":" in line:
            self.fields += 1
            if self.fields > _MAX_FIELDS:
                raise TooLarge(f"more than {_MAX_FIELDS} header fields and trailers")


class _Source(io.RawIOBase):
    """``file``: the socket's own file, which keeps the socket open while this object lives."""

    __slots__ = ("_file", "_hub", "_is_drained", "_sock", "_was_full", "_watch")

    def __init__(self, sock: socket.socket, file: io.RawIOBase) -> None:
        self._sock = sock
        self._file = file
        self._hub = _hub_of(sock)
        # The last read did not fill the buffer, or it did.
        self._is_drained = False
        self._was_full = False
        self._watch: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # A socket with a time limit waits by itself.
        if self._is_drained and self._hub is not None and self._sock.gettimeout() is None:
            if self._watch is None:
                self._watch = self._hub.loop.io(self._sock.fileno(), _READABLE)
            self._hub.wait(self._watch)
        elif self._was_full:
            pause()
        self._is_drained = False
        came = self._sock.recv_into(buffer)
        # Not after the end: after the end of TLS, the kernel may never report anything.
        self._is_drained = 0 < came < len(buffer)
        self._was_full = came == len(buffer)
        return came

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._file.close()
        super().close()


def _hub_of(sock: socket.socket) -> Any:
    """gevent's hub, if the socket is one of gevent's; else None. Does not import gevent by itself."""
    if "gevent.socket" not in sys.modules:
        return None
    import gevent.socket

    return gevent.get_hub() if isinstance(sock, gevent.socket.socket) else None
