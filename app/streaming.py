"""Between WSGI and us: an iterator of bytes as a response that is not buffered, made before it is certain that there
will be one; and whether the client left.

Must never know what the bytes mean.
"""

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from flask import Response, current_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Awaited(Protocol):
    """``wait_for_answer`` returns when it is certain that there is something to stream, or raises what the request
    fails with. ``close`` is safe to call again."""

    def wait_for_answer(self) -> None: ...

    def close(self) -> None: ...


def event_stream(
    body: Iterator[bytes], answer: Awaited, headers: Mapping[str, str], more: Callable[[], Mapping[str, str]]
) -> Response:
    """An SSE response. ``answer`` is closed at its end, whatever the end is, also where it never began. ``more``: the
    headers that are only known when the answer is certain."""
    pieces = _Pieces(body)
    response = _Undecided(pieces, content_type="text/event-stream; charset=utf-8", direct_passthrough=True)
    response.headers["Cache-Control"] = "no-cache"
    # nginx holds a whole answer back without this (measured: openai-contract.md 6).
    response.headers["X-Accel-Buffering"] = "no"
    response.headers.update(headers)
    response.call_on_close(answer.close)
    response.answer, response.more = answer, more
    pieces.ended = response.close
    return response


class _Undecided(Response):
    """A response that waits for its answer when it is about to be sent: what Flask does with a response has been done
    by then. Where there is no answer, it is what Flask makes of a view that raises."""

    answer: Awaited
    more: Callable[[], Mapping[str, str]]

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        try:
            self.answer.wait_for_answer()
        except Exception as e:  # noqa: BLE001  # the edge of the request: the application's handlers answer all
            refusal = current_app.finalize_request(current_app.handle_user_exception(e))
            return refusal(environ, start_response)
        self.headers.update(self.more())
        return super().__call__(environ, start_response)


class _Pieces:
    """A body whose end is told to its response: with ``direct_passthrough``, which spares each piece two layers of
    werkzeug's, the server does not know that."""

    def __init__(self, body: Iterator[bytes]) -> None:
        self._body = body
        self.ended: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self._body

    def close(self) -> None:
        """Called by the server. The response runs what was to be called on close, and calls this again."""
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()


def client_watch(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """A function that tells, without waiting, whether the client has closed its connection.

    Knows gunicorn (any worker), werkzeug's server and waitress; elsewhere the answer is always False, and a
    client that left is found when something is written to it.
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
    """For a client that left something unread behind it: Linux tells the state of the connection."""
    if not hasattr(socket, "TCP_INFO") or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state in _CLOSED_STATES


# TCP_CLOSE and TCP_CLOSE_WAIT of linux/tcp.h.
_CLOSED_STATES = (7, 8)
