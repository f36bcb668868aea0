"""Connections to one site: how they are opened, kept, checked and ended, between requests' adapter and the socket.

What ``requests.Session`` would do beside sending is not wanted here (cookies of one account for another, redirects,
the environment's proxies, netrc and certificate bundles) and was more than half of the cost of a short call, so the
adapter is used as it is. Certificates are verified as requests verifies them. Must never know what a request means.
"""

import contextlib
import queue
import socket
from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, Timeout

from app.concurrency.background import Cancellation
from app.concurrency.watchdog import Watchdog
from app.upstreams.kimi.socket_reader import ReadSide

# Connections that are kept open between requests; more are opened when needed, never waited for.
_POOL_SIZE = 1000

# What is tried again is decided elsewhere.
_NO_RETRIES = Retry(False)

# A request up to this size leaves in one piece, head and body.
_ONE_PIECE_BYTES = 65536


class Unwritable(Exception):
    """A request that cannot be sent as it is; the message is the name of the reason."""


class Exchange:
    """One request and its answer: which work it belongs to, and which connection it runs over."""

    def __init__(self, cancellation: Cancellation, read_s: float) -> None:
        self.cancellation = cancellation
        self.read_s = read_s
        # Whoever reads a stream counts here what has come.
        self.reads = 0
        self.timed_out = False
        self._connection: _Owned | None = None
        self._sock: socket.socket | None = None
        self._seen = -1
        self._quiet_since = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether a connection was had, so that something may have been sent."""
        return self._connection is not None

    def begin(self, connection: "_Owned", sock: socket.socket) -> None:
        self._connection = connection
        # A connection lets go of its socket where the answer ends with it.
        self._sock = sock
        self.cancellation.attach(self.abort)

    def abort(self) -> None:
        """Closes the connection under the reader's hands, unless it already serves another exchange."""
        if self._sock is not None and self._connection is not None and self._connection.owner is self:
            with contextlib.suppress(OSError):
                # The plain method: that of SSLSocket would first drop the TLS state that the reader is using.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def limit(self, seconds: float | None) -> None:
        """What still blocks on the connection gives up after ``seconds``."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.settimeout(seconds)

    @contextlib.contextmanager
    def streaming(self, watchdog: Watchdog) -> Iterator[None]:
        """From now on the watchdog checks whether something comes within ``read_s``, instead of a timer for each
        read."""
        self.limit(None)
        watchdog.watch(self)
        try:
            yield
        finally:
            watchdog.forget(self)

    def check(self, now: float) -> None:
        """Called by the watchdog."""
        if self.reads != self._seen:
            self._seen, self._quiet_since = self.reads, now
        elif now - self._quiet_since > self.read_s:
            self.timed_out = True
            self.abort()

    def check_end(self) -> None:
        """Whether the end of an answer is its own: a body without chunks that is cut off by us ends like any other.
        Raises Cancelled where the work was called off, TimeoutError where nothing came any more."""
        self.cancellation.check()
        if self.timed_out:
            raise TimeoutError


class Transport:
    """One site, over one pool of connections."""

    def __init__(self, base_url: str, connect_s: float) -> None:
        self._base_url = base_url
        self._base_path = urlsplit(base_url).path
        self._connect_s = connect_s
        self._adapter = _Adapter(base_url)

    def close(self) -> None:
        self._adapter.close()

    def send(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, exchange: Exchange
    ) -> requests.Response:
        """The response, its body not yet read. ``path`` and header names are written as they are to be sent.

        Raises exceptions of requests, urllib3 and http.client, OSError, Unwritable, and Cancelled.
        """
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, self._base_url + path, body
        # Nobody looks a name up in it; what is sent is written as it stands here.
        request.headers = cast("CaseInsensitiveDict[str]", headers)
        with self._sent(method, headers, body, exchange) as timeout:
            # Its stub knows no ready-made Timeout, its code does.
            return self._adapter.send(request, stream=True, timeout=cast(Any, timeout))

    @contextlib.contextmanager
    def call(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, exchange: Exchange
    ) -> Iterator[BaseHTTPResponse]:
        """The same for an answer that is not streamed, where nothing of requests' is of use. Raises as ``send``."""
        pool = self._adapter.pool
        with self._sent(method, headers, body, exchange) as timeout:
            response = pool.urlopen(
                method,
                self._base_path + path,
                body,
                headers,
                retries=_NO_RETRIES,
                redirect=False,
                assert_same_host=False,
                timeout=timeout,
                preload_content=False,
            )
        try:
            yield response
        finally:
            # A connection whose answer was read to its end is kept already.
            response.close()
            response.release_conn()

    @contextlib.contextmanager
    def _sent(
        self, method: str, headers: dict[str, str], body: bytes | None, exchange: Exchange
    ) -> Iterator[Timeout]:
        """Around the sending for an exchange; gives its time limits."""
        exchange.cancellation.check()
        if body is not None or method != "GET":
            headers["Content-Length"] = str(len(body or b""))
        token = _exchange.set(exchange)
        try:
            yield Timeout(connect=self._connect_s, read=exchange.read_s)
        except ValueError as e:
            if isinstance(e, requests.RequestException | HTTPError):
                raise
            # http.client looks at what it is to write: a token, say, that Kimi gave us and that is no header.
            raise Unwritable(type(e).__name__) from e
        finally:
            _exchange.reset(token)


# The exchange that the current thread (or greenlet) sends for.
_exchange: ContextVar[Exchange | None] = ContextVar("kimi_exchange", default=None)


class _Owned:
    """A connection that knows its exchange; a mixin, because urllib3's connections know only their socket."""

    owner: Exchange | None = None
    sock: socket.socket | None
    _held: list[bytes] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a kept connection is still good: nothing has come over it, not even its end.

        By looking, not with poll as urllib3 does, which sets up and tears down a watcher of the event loop.
        """
        sock = self.sock
        if sock is None:
            return False
        timeout = sock.gettimeout()
        try:
            sock.settimeout(0)
            try:
                # The plain method: that of SSLSocket takes no flags.
                socket.socket.recv(sock, 1, socket.MSG_PEEK)
            finally:
                sock.settimeout(timeout)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def request(self, *args: Any, **kwargs: Any) -> None:
        self.owner = _exchange.get()
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]  # of the classes that this is mixed into
        if self.owner is not None and self.sock is not None:
            # The time limit for a connection ends here: a long text over a slow line may take longer to send.
            self.sock.settimeout(self.owner.read_s)
            self.owner.begin(self, self.sock)
        self._held = []
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
        finally:
            held, self._held = self._held, None
        for piece in [b"".join(held)] if sum(map(len, held)) <= _ONE_PIECE_BYTES else held:
            self.send(piece)

    def send(self, data: Any) -> None:
        """Head and body come separately from http.client; as two packets, they are two wakeups at the other end."""
        if self._held is None:
            super().send(data)  # type: ignore[misc]
        else:
            self._held.append(data)


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(cast(socket.socket, ReadSide(sock)), *args, **kwargs)


class _HTTPConnection(_Owned, HTTPConnection):
    response_class = _Response


class _HTTPSConnection(_Owned, HTTPSConnection):
    response_class = _Response


class _Kept:
    """The connections that wait to be used again, the last one first, in the words of ``queue.LifoQueue``.

    Nobody ever waits for one, so it needs no locks: those were seven for each request.
    """

    def __init__(self, maxsize: int) -> None:
        self._most = maxsize
        self._kept: deque[Any] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002  # LifoQueue's
        if len(self._kept) >= self._most:
            raise queue.Full
        self._kept.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ARG002  # LifoQueue's
        try:
            return self._kept.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        return len(self._kept)


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection
    QueueCls = cast(Any, _Kept)


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection
    QueueCls = cast(Any, _Kept)


class _Adapter(HTTPAdapter):
    """requests' adapter for one site: what it finds out anew for each request is found out once."""

    def __init__(self, base_url: str) -> None:
        site = urlsplit(base_url)
        self._origin_chars = len(f"{site.scheme}://{site.netloc}")
        self._base_url = base_url
        self._pool: HTTPConnectionPool | None = None
        super().__init__(pool_connections=2, pool_maxsize=_POOL_SIZE, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    @property
    def pool(self) -> HTTPConnectionPool:
        if self._pool is None:
            example = requests.Request("GET", self._base_url).prepare()
            self._pool = cast(HTTPConnectionPool, super().get_connection_with_tls_context(example, verify=True))
            super().cert_verify(self._pool, self._base_url, True, None)  # type: ignore[no-untyped-call]
        return self._pool

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
        return self.pool

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Done when the pool was made."""

    def request_url(self, request: requests.PreparedRequest, _: Mapping[str, str] | None) -> str:
        assert request.url is not None
        return request.url[self._origin_chars :]

    def build_response(self, req: requests.PreparedRequest, resp: BaseHTTPResponse) -> requests.Response:
        """Without cookies, and without a guess at the encoding of what is read as bytes."""
        response = requests.Response()
        response.status_code = resp.status
        # As good a mapping for names in any case as requests' own, without a copy.
        response.headers = cast("CaseInsensitiveDict[str]", resp.headers)
        response.raw = resp
        response.url = req.url or ""
        return response
