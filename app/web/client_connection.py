"""Whether the client of a request has left, as far as its server shows its socket. Must never know what is sent."""

import socket
from collections.abc import Callable, Mapping
from typing import Any


def client_watch(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """A function that says, without waiting, whether the client has closed its connection.

    Knows gunicorn (any worker), werkzeug's server and waitress. Elsewhere it always returns False, and a client that
    left is noticed when something is written to it.
    """
    is_disconnected = environ.get("waitress.client_disconnected")
    if callable(is_disconnected):
        return lambda: bool(is_disconnected())
    sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return _socket_watch(sock) if sock is not None else lambda: False


def _socket_watch(sock: socket.socket) -> Callable[[], bool]:
    def is_gone() -> bool:
        try:
            timeout = sock.gettimeout()
            # Never waits, neither on a plain socket nor on a gevent one: that waits unless its timeout is 0.
            sock.settimeout(0)
            try:
                return sock.recv(1, socket.MSG_PEEK) == b"" or _has_closed(sock)
            finally:
                sock.settimeout(timeout)
        except (BlockingIOError, ValueError):
            # Nothing to read, so it is open; or TLS, where nothing can be peeked at.
            return False
        except OSError:
            return True

    return is_gone


def _has_closed(sock: socket.socket) -> bool:
    """For a client that sent something more before it left: Linux knows the state of the connection."""
    if not hasattr(socket, "TCP_INFO") or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state in _CLOSED_STATES


# TCP_CLOSE and TCP_CLOSE_WAIT of linux/tcp.h.
_CLOSED_STATES = (7, 8)
