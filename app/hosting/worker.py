"""gunicorn's gevent worker with these changes.

- Client sockets are those of ``client_socket``: quick to send, and no client holds the worker by sending.
- A body that the application has not read is not read to its end for the sake of the next request, as gunicorn does
  without a pause and without a limit. If much of it is left, the answer says ``Connection: close``.
- If nearly all connections are taken, a new one takes the place of one that waits for a request, or else of one whose
  client does not read. So nobody can lock others out by opening connections.
- The pauses of background work end with gunicorn's heartbeat, so that an idle worker is woken once a second.
- At a graceful stop the gateway learns how much time is left, so that streams end with an error in time.
- At a graceful stop idle keep-alive connections are closed. gunicorn would wait for them.
- A request that gunicorn cannot read is answered in JSON, without a part of it.
- An exception that ends a greenlet is logged. gevent would print it, with whatever its text holds.

``handle`` and ``handle_request`` do what GeventWorker's do and call AsyncWorker's. A request runs below them: with
two frames more, those of each stream would take one page (4 KB) more of memory.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, cast

import gevent
from gevent.server import StreamServer
from gevent.ssl import SSLSocket
from greenlet import greenlet
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.errors import (
    ExpectationFailed,
    ForbiddenProxyRequest,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from app.concurrency.periodic import beat
from app.concurrency.yielding import pause
from app.hosting.client_socket import ClientConnection, Heads, Limits, client_socket, cut_off
from app.hosting.server_log import describe

log = logging.getLogger(__name__)

# The tree of greenlets is for debugging, and costs 1 KB per stream.
gevent.config.track_greenlet_tree = False

# So many connections are accepted in one round of the event loop. gevent would take 100, and a token waits for
# several rounds on its way through the worker.
StreamServer.max_accept = 8

# Streams end this long before gunicorn's graceful_timeout, at which connections are cut. Seconds: a stream notices
# its end within one second, and then releases its leases.
_RELEASE_S = 3.0

# How long the answer to a request that cannot be read may take to be sent.
_SEND_S = 1.0

# Idle connections are closed this long after the stop was requested. Seconds: requests that were already on their way
# arrive before.
_LAST_REQUEST_S = 2.0

# This share of the connections that a worker may have is kept free for new ones.
_FREE_SHARE = 0.05


# The status of a request that cannot be read, where it is not 400.
_STATUS = {
    LimitRequestLine: (414, "URI Too Long"),
    LimitRequestHeaders: (431, "Request Header Fields Too Large"),
    ExpectationFailed: (417, "Expectation Failed"),
    ForbiddenProxyRequest: (403, "Forbidden"),
    UnsupportedTransferCoding: (501, "Not Implemented"),
}

# Faults of ours among gunicorn's ParseExceptions.
_OURS = frozenset({"InvalidResponseHeader", "InvalidResponseHeaderName", "ConfigurationProblem"})


class Worker(GeventWorker):
    limits = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Connections that wait for their next request, the one that has waited longest first.
        self.idle: dict[_IdleTimeout, greenlet] = {}
        # All connections, by the greenlet that serves them.
        self._connections: dict[greenlet, ClientConnection] = {}
        self._most = int(self.worker_connections * (1 - _FREE_SHARE))
        self._heads = Heads()

    def init_process(self) -> None:
        if self.cfg.is_ssl:
            self.cfg.set("ssl_context", _without_handshake(self.cfg.ssl_context))
        # As plain attributes: gunicorn looks each of them up in three calls of functions, 25 times for a request.
        vars(self.cfg).update({name: setting.get() for name, setting in self.cfg.settings.items()})
        super().init_process()

    def timeout_ctx(self) -> "_IdleTimeout":  # type: ignore[override]  # its stub says None, its code uses the value
        """The context in which gunicorn waits for the next request of a connection."""
        return _IdleTimeout(self, self._connections[gevent.getcurrent()])

    def handle_exit(self, sig: int, frame: Any) -> None:
        """The signal handler for a graceful stop."""
        super().handle_exit(sig, frame)
        # The signal may arrive before the application is loaded.
        if (app := getattr(self, "wsgi", None)) is not None:
            app.extensions["gateway"].end_within(max(0.0, self.cfg.graceful_timeout - _RELEASE_S))
        gevent.spawn_later(_LAST_REQUEST_S, _in_loop, self._close_idle)

    def notify(self) -> None:
        """Called every second."""
        super().notify()
        beat(time.monotonic())
        _in_loop(self._close_slow)
        if len(self._connections) > self._most:
            # A client that stopped reading only now may be the one to go.
            _in_loop(self._make_room)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        current = gevent.getcurrent()
        connection = self._connections[current] = client_socket(client, self.limits, self._heads)
        if len(self._connections) > self._most or self._heads.bytes > self.limits.all_heads_bytes:
            _in_loop(self._make_room)
        try:
            if not isinstance(connection, SSLSocket) or self._shake_hands(connection):
                connection.setblocking(True)
                AsyncWorker.handle(self, listener, cast(Any, connection), addr)
        finally:
            connection.end_head()
            del self._connections[current]

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:  # type: ignore[override]  # gunicorn's own returns nothing, too
        wants_close = req.should_close
        # Asked when the head of the answer is written, and after the answer.
        req.should_close = lambda: wants_close() or sock.has_stalled or _unread_bytes(req) > self.limits.drained_bytes
        try:
            AsyncWorker.handle_request(self, listener_name, req, sock, addr)
        except (gevent.GreenletExit, SystemExit):
            pass
        except StopIteration:
            if _unread_bytes(req):
                sock.linger()
            raise
        finally:
            # It holds the request, which holds it.
            del req.should_close
        _drain(req)

    def _shake_hands(self, connection: Any) -> bool:
        """Whether TLS begins, which takes no longer than a head may."""
        is_done = False
        with contextlib.suppress(OSError), self.timeout_ctx():
            connection.head_began_at = time.monotonic()
            connection.do_handshake()
            is_done = True
        return is_done

    # Run in the event loop, where no connection can get a request meanwhile.

    def _close_idle(self) -> None:
        for timeout, waiting in list(self.idle.items()):
            if timeout in self.idle:
                waiting.throw(timeout)

    def _close_slow(self) -> None:
        """Ends the connections whose head takes too long."""
        before = time.monotonic() - self.limits.head_s
        for timeout, waiting in list(self.idle.items()):
            began_at = timeout.connection.head_began_at
            if began_at is not None and began_at < before:
                waiting.throw(timeout)

    def _make_room(self) -> None:
        """Ends connections until some are free, and until incomplete heads have not too many bytes."""
        for timeout, waiting in list(self.idle.items()):
            is_full = len(self._connections) > self._most
            if not is_full and self._heads.bytes <= self.limits.all_heads_bytes:
                return
            if timeout in self.idle and (is_full or timeout.connection.head_bytes):
                waiting.throw(timeout)
        before = time.monotonic() - self.limits.stuck_s
        stuck = [(c.stuck_since, g) for g, c in self._connections.items() if c.stuck_since and c.stuck_since < before]
        too_many = max(0, len(self._connections) - self._most)
        for _, sending in sorted(stuck, key=lambda one: one[0])[:too_many]:
            sending.throw(cut_off())

    def load_wsgi(self) -> None:
        super().load_wsgi()
        gevent.get_hub().print_exception = _log_exception  # type: ignore[method-assign,assignment]

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        if not isinstance(exc, ParseException) or describe(exc) in _OURS:
            super().handle_error(req, client, addr, exc)
            return
        status, reason = _STATUS.get(type(exc), (400, "Bad Request"))
        log.info("request_unreadable status=%d error=%s", status, describe(exc))
        body = _UNREADABLE % describe(exc).encode()
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with gevent.Timeout(_SEND_S, cast(Any, False)), contextlib.suppress(OSError):
            client.sendall(head.encode() + body)


# In the shape of ``app.web.error_responses.openai_error``.
_UNREADABLE = (
    b'{"error":{"message":"this is not a request that HTTP allows (%s)","type":"invalid_request_error",'
    b'"param":null,"code":"invalid_http"}}'
)


def _log_exception(context: Any, kind: Any, error: Any, _traceback: Any) -> None:
    """Replaces gevent's ``Hub.print_exception``."""
    log.critical(
        "exception_not_caught in=%s", type(context).__name__, exc_info=error if error is not None else kind()
    )


class _IdleTimeout(gevent.Timeout):
    """The time limit of a connection that waits for its next request. Can be raised early."""

    def __init__(self, worker: Worker, connection: ClientConnection) -> None:
        # False: the timeout ends the with block and raises nothing. The stub does not know that.
        super().__init__(worker.cfg.keepalive, cast(Any, False))
        self._worker = worker
        self.connection = connection

    def __enter__(self) -> "_IdleTimeout":
        # Requests that came together are not read one by one.
        pause()
        self._worker.idle[self] = gevent.getcurrent()
        self.connection.begin_head()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        self._worker.idle.pop(self, None)
        self.connection.end_head()
        return super().__exit__(*error)


def _without_handshake(make_context: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """gunicorn's hook ``ssl_context``. gevent's server would wait for the handshake of a client of which the worker
    does not know yet, for as long as that likes."""

    def hook(config: Any, default_context: Any) -> Any:
        context = make_context(config, default_context)
        context.wrap_socket = functools.partial(context.wrap_socket, do_handshake_on_connect=False)
        return context

    return hook


def _in_loop(work: Callable[[], None]) -> None:
    gevent.get_hub().loop.run_callback(work)


def _unread_bytes(req: Any) -> float:
    """How much of the body was not read. Without a length it is nothing, or infinitely much."""
    match reader := req.body.reader:
        case LengthReader():
            return float(reader.length)
        case ChunkedReader():
            return 0.0 if reader.parser is None else float("inf")
        case _:
            return 0.0


def _drain(req: Any) -> None:
    """Reads what is left of a body. Raises StopIteration, which ends the connection, if it does not come."""
    unread = _unread_bytes(req)
    if unread:
        try:
            req.body.read(int(unread))
        except OSError:
            raise StopIteration from None
