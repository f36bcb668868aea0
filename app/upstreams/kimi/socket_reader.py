"""A connection's socket as the file that http.client reads: a little ahead, and not asked for what cannot be there.

Who reads a stream has mostly just been given all that there was. gevent's sockets try again all the same, are told
that there is nothing, and wait then: for each token a call into the kernel and an exception. Here the reader waits
first, where its last reading left room: an eighth of a token's cost (docs/performance.md). TLS changes nothing about
that: a reading that leaves room has emptied its record, and nothing of the next one has been taken from the kernel.
Works without gevent, too. Knows sockets and gevent's loop.
"""

import io
import socket
import sys
from typing import Any, Literal

# What is read from the kernel at once: some ten tokens. http.client's own 8 KB would be held as long as a stream is
# open.
_READ_AHEAD_BYTES = 2048

# https://www.gevent.org/api/gevent.hub.html: of the events of a loop's ``io``, "something can be read".
_READABLE = 1


class ReadSide:
    """Stands for a socket where a file to read is made of it and nothing else: http.client.HTTPResponse does so."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, mode: Literal["rb"]) -> io.BufferedReader:
        return io.BufferedReader(_Source(self._sock, self._sock.makefile(mode, 0)), _READ_AHEAD_BYTES)


class _Source(io.RawIOBase):
    """``file``: the socket's own, which keeps it open for as long as this is."""

    def __init__(self, sock: socket.socket, file: io.RawIOBase) -> None:
        self._sock = sock
        self._file = file
        self._hub = _hub_of(sock)
        # Nothing more was there when it was last read.
        self._is_drained = False
        self._watch: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # A time limit is kept by the socket itself.
        if self._is_drained and self._hub is not None and self._sock.gettimeout() is None:
            if self._watch is None:
                self._watch = self._hub.loop.io(self._sock.fileno(), _READABLE)
            self._hub.wait(self._watch)
        self._is_drained = False
        came = self._sock.recv_into(buffer)
        # Not at the end: after TLS's own, nothing need ever come from the kernel.
        self._is_drained = 0 < came < len(buffer)
        return came

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._file.close()
        super().close()


def _hub_of(sock: socket.socket) -> Any:
    """gevent's, where the socket is one of gevent's; else None. Where nobody has loaded gevent, this must not."""
    if "gevent.socket" not in sys.modules:
        return None
    import gevent.socket

    return gevent.get_hub() if isinstance(sock, gevent.socket.socket) else None
