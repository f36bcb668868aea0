"""Connections to one site: how they are opened, kept, checked and aborted, between requests' adapter and the socket.

``requests.Session`` does more than is wanted here (cookies of one account for another, redirects, netrc), and that
was more than half of the cost of a short call; so the adapter is used directly. Proxies and certificates are those
that requests would use (https://requests.readthedocs.io/en/latest/user/advanced/#proxies): ``HTTPS_PROXY``,
``NO_PROXY``, ``REQUESTS_CA_BUNDLE`` and the like of the environment count, and are looked up once for a site. This
file and ``socket_reader`` override insides of requests, urllib3 and http.client; tests/upstreams fail where a new
version of those changes them. Must never know what a request means.
"""

import contextlib
import functools
import io
import os
import queue
import re
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import select_proxy
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse
from urllib3.response import HTTPResponse as HTTPResponseOfUrllib3
from urllib3.util import Retry, Timeout

from app.concurrency.background import Cancellation
from app.concurrency.watchdog import Watchdog
from app.settings.parsers import DIRECT, without_password
from app.upstreams.kimi import http_chunks
from app.upstreams.kimi.http_heads import ordinary_head
from app.upstreams.kimi.socket_reader import ReadSide, TooLarge

T = TypeVar("T")

# Connections that are kept open between requests. More are opened when needed: a request never waits for one.
_POOL_SIZE = 1000

# ``answers.failover`` decides what is tried again.
_NO_RETRIES = Retry(False)

# A request up to this size is sent in one piece, head and body.
_ONE_PIECE_BYTES = 65536


_is_header = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n]*").fullmatch

# All lines of a response before its body, those of interim responses included.
_MAX_HEAD_BYTES = 262_144


class StreamedBody:
    """The body of a request that is not held in memory as a whole."""

    def __init__(self, pieces: Iterator[bytes], size: int) -> None:
        """``size``: of all pieces together, in bytes."""
        self._pieces = pieces
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces


class Unwritable(Exception):
    """A request that cannot be sent as it is; the message is the name of the reason."""


class Exchange:
    """One request and its response: whose work it is, and which connection it uses."""

    # Without a dictionary: there is one for each stream.
    __slots__ = ("_connection", "_quiet_since", "_seen", "_sock", "cancellation", "read_s", "reads", "timed_out")

    def __init__(self, cancellation: Cancellation, read_s: float) -> None:
        self.cancellation = cancellation
        self.read_s = read_s
        # Counted up by the reader of a stream with each piece.
        self.reads = 0
        self.timed_out = False
        self._connection: _Owned | None = None
        self._sock: socket.socket | None = None
        self._seen = -1
        self._quiet_since = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether there was a connection, so that something may have been sent."""
        return self._connection is not None

    def begin(self, connection: "_Owned", sock: socket.socket) -> None:
        self._connection = connection
        # A connection drops its socket where the response ends with it.
        self._sock = sock
        self.cancellation.attach(self.abort)

    def abort(self) -> None:
        """Ends the connection while its reader blocks on it, unless it already serves another exchange."""
        if self._sock is not None and self._connection is not None and self._connection.owner is self:
            with contextlib.suppress(OSError):
                # The plain method: that of SSLSocket would first drop the TLS state that the reader is using.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def limit(self, seconds: float | None) -> None:
        """A read or write that blocks on the connection fails after ``seconds``."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.settimeout(seconds)

    def begin_stream(self, watchdog: Watchdog) -> None:
        """From now on the watchdog checks whether something comes within ``read_s``, instead of a timer for each
        read. It must forget this object when the stream has ended."""
        self.limit(None)
        watchdog.watch(self)

    def check(self, now: float) -> None:
        """Called by the watchdog."""
        if self.reads != self._seen:
            self._seen, self._quiet_since = self.reads, now
        elif now - self._quiet_since > self.read_s:
            self.timed_out = True
            self.abort()

    def check_end(self) -> None:
        """Called at the end of a body: one without HTTP chunks that we cut ends like any other. Raises Cancelled
        where the work was called off, TimeoutError where nothing came any more."""
        self.cancellation.check()
        if self.timed_out:
            raise TimeoutError


class Transport:
    """One site, over one pool of connections."""

    def __init__(self, base_url: str, connect_s: float, proxy: str = "") -> None:
        """``proxy``: a URL, ``direct`` for none, or empty for that of the environment."""
        self._base_url = base_url
        self._connect_s = connect_s
        self._adapter = _Adapter(base_url, proxy)

    @property
    def proxy(self) -> str:
        """The proxy that is used, without user and password; empty if none is."""
        return self._adapter.used_proxy

    def close(self) -> None:
        self._adapter.close()

    def send(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, exchange: Exchange
    ) -> requests.Response:
        """The response; its body is not yet read. ``path`` and header names are sent as they are.

        Raises exceptions of requests, urllib3 and http.client, OSError, Unwritable, and Cancelled.
        """
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, self._base_url + path, body
        # Only iterated, so a plain dict will do.
        request.headers = cast("CaseInsensitiveDict[str]", headers)

        def send(timeout: Timeout) -> requests.Response:
            # The stub does not accept a Timeout, the code does.
            return self._adapter.send(request, stream=True, timeout=cast(Any, timeout))

        response = self._sent(send, method, headers, body, exchange)
        # The response refers to its request for as long as it is read, and a prompt may be long.
        response.request = cast(requests.PreparedRequest, None)
        return response

    def call(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | StreamedBody | None,
        exchange: Exchange,
    ) -> "_Whole":
        """The same for a response that is not streamed, without requests' part. Raises as ``send``."""

        def send(timeout: Timeout) -> BaseHTTPResponse:
            # The pool is made here at the first request, and its proxy may have a password that cannot be sent.
            return self._adapter.pool.urlopen(
                method,
                self._adapter.target + path,
                body,
                headers,
                retries=_NO_RETRIES,
                redirect=False,
                assert_same_host=False,
                timeout=timeout,
                preload_content=False,
            )

        return _Whole(self._sent(send, method, headers, body, exchange))

    def _sent(
        self,
        send: Callable[[Timeout], T],
        method: str,
        headers: dict[str, str],
        body: bytes | StreamedBody | None,
        exchange: Exchange,
    ) -> T:
        """Calls ``send`` with the time limits of the exchange, which it works for meanwhile."""
        exchange.cancellation.check()
        if body is not None or method != "GET":
            headers["Content-Length"] = str(len(body or b""))
        token = _exchange.set(exchange)
        try:
            return send(_timeout(self._connect_s, exchange.read_s))
        except ValueError as e:
            if isinstance(e, requests.RequestException | HTTPError):
                raise
            # http.client checks what it writes: a token from Kimi may not be a valid header.
            raise Unwritable(type(e).__name__) from e
        finally:
            _exchange.reset(token)


class _Whole:
    """A response that is read at once: its connection is given back at the end."""

    __slots__ = ("_response",)

    def __init__(self, response: BaseHTTPResponse) -> None:
        self._response = response

    def __enter__(self) -> BaseHTTPResponse:
        return self._response

    def __exit__(self, *_: object) -> None:
        # A connection whose response was read to its end is in the pool already.
        self._response.close()
        self._response.release_conn()


@functools.lru_cache(maxsize=64)
def _timeout(connect_s: float, read_s: float) -> Timeout:
    """The time limits of a request. urllib3 copies the object before it uses it."""
    return Timeout(connect=connect_s, read=read_s)


# The exchange of the current thread (or greenlet) while it sends: urllib3 has no parameter for it.
_exchange: ContextVar[Exchange | None] = ContextVar("kimi_exchange", default=None)


class _Owned:
    """A connection that knows its exchange. A mixin for urllib3's two connection classes."""

    owner: Exchange | None = None
    sock: socket.socket | None
    _held: list[bytes] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a kept connection can be used: nothing has come over it, not even its end.

        By peeking, and not with poll as urllib3 does, which sets up and removes a watcher of the event loop.
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
            # The limit for connecting ends here: a long text over a slow line may take longer to send.
            self.sock.settimeout(self.owner.read_s)
            self.owner.begin(self, self.sock)
        self._held = []
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
        finally:
            held, self._held = self._held, None
        if held:
            self.send(b"".join(held))

    def putheader(self, header: str | bytes, *values: Any) -> None:
        """What urllib3 and http.client do in six calls for each of the forty headers of an answer. Raises ValueError
        if it is not one line."""
        is_usual = header.__class__ is str and len(values) == 1 and values[0].__class__ is str
        line = f"{header}: {values[0]}" if is_usual else ""  # type: ignore[str-bytes-safe]
        if _is_header(line):
            self._output(line.encode("latin-1"))  # type: ignore[attr-defined]
        else:
            super().putheader(header, *values)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """http.client sends head and body separately. As two packets they would wake the other end twice. A body in
        pieces is held back only up to the size of one piece."""
        held = self._held
        if held is None:
            super().send(data)  # type: ignore[misc]
            return
        held.append(data)
        if len(held) > 1 and sum(map(len, held)) > _ONE_PIECE_BYTES:
            self._held = None
            for piece in held:
                self.send(piece)


class _Response(HTTPResponse):
    _method: str | None

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(cast(socket.socket, ReadSide(sock)), *args, **kwargs)

    def begin(self) -> None:
        """Reads the head. http.client limits a line and the number of fields, and any number of responses 100 may
        come before the one that is meant."""
        file = self.fp
        head = ordinary_head(file.peek())
        if head is None or self._method == "HEAD":
            self.fp = cast(Any, _HeadReader(file))
            try:
                super().begin()
            finally:
                self.fp = file
            return
        file.read(head.size)
        self.version, self.status, self.reason = 11, 200, head.reason
        self.code = self.status
        self.headers = self.msg = head.fields
        self.chunked, self.chunk_left = head.is_chunked, None
        self.length, self.will_close = head.length, head.will_close


def body_in_chunks(response: BaseHTTPResponse) -> Iterator[bytes] | None:
    """The body of a streamed response, if it comes in HTTP chunks and is not compressed: all that one read brings is
    passed on at once. The connection can be used again after the last piece. Raises as ``http_chunks.pieces``.

    None for other bodies, which urllib3 reads.
    """
    if not isinstance(response, HTTPResponseOfUrllib3) or not response.chunked:
        return None
    original = response._original_response
    if original is None or original.fp is None or "Content-Encoding" in response.headers:
        return None
    return http_chunks.pieces(original.fp, functools.partial(_release, response, original))


def _release(response: BaseHTTPResponse, original: HTTPResponse) -> None:
    original.close()
    response.release_conn()


class _HeadReader:
    """The file of a response while its head is read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = _MAX_HEAD_BYTES

    def readline(self, size: int = -1) -> bytes:
        # Not by the method of ``_Reader``, which counts trailers.
        line: bytes = io.BufferedReader.readline(self._file, size)
        self._left -= len(line)
        if self._left < 0:
            raise TooLarge(f"a head of more than {_MAX_HEAD_BYTES} bytes")
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _HTTPConnection(_Owned, HTTPConnection):
    response_class = _Response


class _HTTPSConnection(_Owned, HTTPSConnection):
    response_class = _Response


class _IdleConnections:
    """The connections that wait to be used again, the last one first, with the methods of ``queue.LifoQueue``.

    A request never waits for one, so there are no locks: those were seven for each request.
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
    QueueCls = cast(Any, _IdleConnections)


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection
    QueueCls = cast(Any, _IdleConnections)


def _socks_pools() -> dict[str, type[HTTPConnectionPool]]:
    """The same over a SOCKS proxy. Most gateways never load PySocks."""
    from urllib3.contrib.socks import SOCKSConnection, SOCKSHTTPSConnection

    class SocksHTTPConnection(_Owned, SOCKSConnection):
        response_class = _Response

    class SocksHTTPSConnection(_Owned, SOCKSHTTPSConnection):
        response_class = _Response

    class SocksHTTPPool(_HTTPPool):
        ConnectionCls = cast(Any, SocksHTTPConnection)

    class SocksHTTPSPool(_HTTPSPool):
        ConnectionCls = cast(Any, SocksHTTPSConnection)

    return {"http": SocksHTTPPool, "https": SocksHTTPSPool}


class _Adapter(HTTPAdapter):
    """requests' adapter for one site: what it looks up for each request is looked up once."""

    def __init__(self, base_url: str, proxy: str) -> None:
        site = urlsplit(base_url)
        self._origin_chars = len(f"{site.scheme}://{site.netloc}")
        self._base_url = base_url
        self._pool: HTTPConnectionPool | None = None
        self._proxies, self._verify = _surroundings(base_url, proxy)
        used = select_proxy(base_url, self._proxies) or ""
        self.used_proxy = without_password(used)
        # An HTTP proxy is told the whole address, unless it only passes on a connection for TLS.
        self._forwards = bool(used) and site.scheme == "http" and not used.lower().startswith("socks")
        # What precedes a path in the first line of a request.
        self.target = base_url if self._forwards else site.path
        super().__init__(pool_connections=2, pool_maxsize=_POOL_SIZE, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        socks = proxy.lower().startswith("socks")
        manager.pool_classes_by_scheme = _socks_pools() if socks else {"http": _HTTPPool, "https": _HTTPSPool}
        return manager

    @property
    def pool(self) -> HTTPConnectionPool:
        if self._pool is None:
            example = requests.Request("GET", self._base_url).prepare()
            pool = super().get_connection_with_tls_context(example, self._verify, self._proxies)
            super().cert_verify(pool, self._base_url, self._verify, None)  # type: ignore[no-untyped-call]
            self._pool = cast(HTTPConnectionPool, pool)
        return self._pool

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
        return self.pool

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Done once, when the pool is made."""

    def request_url(self, request: requests.PreparedRequest, _: Mapping[str, str] | None) -> str:
        assert request.url is not None
        return request.url if self._forwards else request.url[self._origin_chars :]

    def build_response(self, req: requests.PreparedRequest, resp: BaseHTTPResponse) -> requests.Response:
        """Without cookies, and without a guess at the encoding of bytes."""
        response = requests.Response()
        response.status_code = resp.status
        # Case-insensitive like requests' own mapping, without a copy.
        response.headers = cast("CaseInsensitiveDict[str]", resp.headers)
        response.raw = resp
        response.url = req.url or ""
        return response


def _surroundings(base_url: str, proxy: str) -> tuple[dict[str, str], bool | str]:
    """The proxies for an address, and whether and with which certificates it is verified, both as requests takes
    them."""
    with requests.Session() as session:
        found = session.merge_environment_settings(base_url, {}, None, None, None)
    # SSL_CERT_FILE is OpenSSL's: Python's own programs and curl read it, requests does not.
    given = found["verify"]
    verify = given if isinstance(given, str) else os.environ.get("SSL_CERT_FILE") or True
    if not proxy:
        return dict(found["proxies"]), verify
    return ({} if proxy == DIRECT else {urlsplit(base_url).scheme: proxy}), verify
