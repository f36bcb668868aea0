"""Detects that the client of a request has disconnected, if the WSGI server gives access to the socket.

Must never know what is sent.
"""

import select
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any


def client_watch(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """A function that returns, without blocking, whether the client has closed its connection.

    Supports gunicorn (any worker), werkzeug's server, waitress and uWSGI on Linux. With other servers the function
    always returns False, and a closed connection is only noticed when something is written to it.
    """
    is_disconnected = environ.get("waitress.client_disconnected")
    if callable(is_disconnected):
        return lambda: bool(is_disconnected())
    sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if sock is not None:
        return _socket_watch(sock)
    return _uwsgi_watch() if "uwsgi.version" in environ else lambda: False


def _socket_watch(sock: socket.socket) -> Callable[[], bool]:
    def is_gone() -> bool:
        try:
            timeout = sock.gettimeout()
            # With a timeout of 0, recv never blocks. A gevent socket blocks with any other timeout.
            sock.settimeout(0)
            try:
                return sock.recv(1, socket.MSG_PEEK) == b"" or _has_closed(sock)
            finally:
                sock.settimeout(timeout)
        except (BlockingIOError, ValueError):
            # Nothing to read, so the connection is open; or TLS, which does not support MSG_PEEK.
            return False
        except OSError:
            return True

    return is_gone


def _uwsgi_watch() -> Callable[[], bool]:
    """uWSGI gives the number of the connection to the thread that answers the request, and to no other. It is the
    client's own connection, or that of the server in front."""
    uwsgi: Any = sys.modules["uwsgi"]
    if not hasattr(select, "POLLRDHUP"):
        return lambda: False
    poll = select.poll()
    poll.register(uwsgi.connection_fd(), select.POLLRDHUP)
    return lambda: bool(poll.poll(0))


def _has_closed(sock: socket.socket) -> bool:
    """Whether Linux reports the connection as closed: for a client that sent more bytes before it disconnected."""
    if not hasattr(socket, "TCP_INFO") or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state in _CLOSED_STATES


# TCP_CLOSE and TCP_CLOSE_WAIT of linux/tcp.h.
_CLOSED_STATES = (7, 8)
