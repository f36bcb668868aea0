"""The only outgoing door to Kimi: headers, connections, timeouts; foreign exceptions become ours.

Headers: ``kimi-protocol.md`` 1.3. Must never know what a body means.
"""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse

from app.accounts import Account
from app.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from app.pump import Cancellation

log = logging.getLogger(__name__)

_JSON = "application/json"

_USER_AGENT = "kimi-gateway/0.1"

# The media type of Connect's streams; a call that has it says which version of Connect it speaks.
CONNECT_STREAM = "application/connect+json"

# Connections to Kimi that are kept open between requests; more are opened when needed, never waited for.
_POOL_SIZE = 1000

# After its last event a stream is read to its real end, so that the connection can be used again.
_DRAIN_S = 1.0
_DRAIN_BYTES = 65536

# The most that one read of a body without chunks gives.
_READ_BYTES = 65536

# How much of a body is read that is wanted as a whole: more than any answer of Kimi's short calls.
_WHOLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. ``headers`` are case-insensitive; ``media_type`` is lower case, without parameters."""

    status: int
    media_type: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: for a connection, for a whole short call, and between two bytes of a stream."""

    connect_s: float
    call_s: float
    read_s: float


# Sees the wire: "request" and "response" with a head (a line, then headers, never Authorization; a blank line and
# the body follow in a request), and "data" with each piece of a response's body as it was read.
Tap = Callable[[str, bytes], None]


class KimiHttp:
    """Requests to one site, over one pool of connections shared by all accounts of this process."""

    def __init__(self, base_url: str, timeouts: Timeouts, tap: Tap | None = None) -> None:
        self.base_url = base_url
        self._timeouts = timeouts
        self._tap = tap
        self._session = requests.Session()
        # Proxies, netrc and certificate bundles of the environment would be looked up at every request.
        self._session.trust_env = False
        # A cookie set for one account must never be sent for another.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.clear()
        adapter = _Adapter(pool_connections=4, pool_maxsize=_POOL_SIZE, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def close(self) -> None:
        self._session.close()

    def call(
        self,
        method: str,
        path: str,
        account: Account,
        body: bytes | None = None,
        cancellation: Cancellation | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        authorize: bool = True,
        timeout_s: float | None = None,
    ) -> Reply:
        """One short request and its whole answer, whatever its status; ``headers`` come beside the usual ones."""
        more = {**(_bearer(account) if authorize else {}), **(headers or {})}
        read_s = self._timeouts.call_s if timeout_s is None else timeout_s
        sent = self._send(method, path, account, _JSON, body, cancellation, read_s, more)
        with sent as (response, _):
            return _whole(response)

    @contextlib.contextmanager
    def stream(
        self, path: str, account: Account, body: bytes, media_type: str, cancellation: Cancellation
    ) -> Iterator["Stream"]:
        """One POST whose answer is read as it comes."""
        more = _bearer(account)
        sent = self._send("POST", path, account, media_type, body, cancellation, self._timeouts.read_s, more)
        with sent as (response, exchange):
            yield Stream(response, exchange)

    @contextlib.contextmanager
    def _send(
        self,
        method: str,
        path: str,
        account: Account,
        media_type: str,
        body: bytes | None,
        cancellation: Cancellation | None,
        read_s: float,
        more: Mapping[str, str],
    ) -> Iterator[tuple[requests.Response, "_Exchange"]]:
        exchange = _Exchange(cancellation or Cancellation(), read_s)
        exchange.cancellation.check()
        token = _exchange.set(exchange)
        headers = _headers(account, media_type, self.base_url)
        if self._tap is not None:
            self._tap("request", _head(f"{method} {path}", headers) + (body or b""))
        try:
            with (
                _translated(account, self.base_url, exchange),
                self._request(
                    account,
                    method,
                    self.base_url + path,
                    data=body,
                    headers={**headers, **more},
                    timeout=(self._timeouts.connect_s, read_s),
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                if self._tap is not None:
                    self._tap("response", _head(str(response.status_code), response.headers))
                    response.raw = _Tapped(response.raw, self._tap)
                yield response, exchange
        finally:
            _exchange.reset(token)
            exchange.cancellation.detach()

    def _request(self, account: Account, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            return self._session.request(*args, **kwargs)
        except (ValueError, UnicodeError) as e:
            # requests reads Location even where it is told not to follow it, and any text may stand there.
            if isinstance(e, requests.RequestException):
                raise
            raise UpstreamUnavailable(
                f"{account.label}: {self.base_url} answered with a header that cannot be read ({type(e).__name__})"
            ) from e


class Stream:
    """An answer that is still coming. A refusal (``ok`` is False) is read with ``whole``."""

    def __init__(self, response: requests.Response, exchange: "_Exchange") -> None:
        self._response = response
        self._exchange = exchange
        self.ok = response.status_code == 200

    @property
    def media_type(self) -> str:
        return _media_type(self._response)

    def whole(self) -> Reply:
        return _whole(self._response)

    def lines(self) -> Iterator[bytes]:
        """Lines without their ends, each as soon as its end has come.

        Of the chunk sizes of ``iter_lines`` only these two stream (measured: performance.md 2): None yields
        what one HTTP chunk brought, but waits for the end of a body that is not chunked; there it is 1.
        """
        size = None if getattr(self._response.raw, "chunked", False) else 1
        return self._response.iter_lines(chunk_size=size)

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they come, not cut by anything that they mean.

        ``iter_content(None)`` yields what one HTTP chunk brought, but waits for the end of a body that is not
        chunked; there ``read1`` yields what there is (measured: performance.md 2).
        """
        raw: BaseHTTPResponse = self._response.raw
        if getattr(raw, "chunked", False):
            yield from self._response.iter_content(None)
            return
        while data := raw.read1(_READ_BYTES, decode_content=True):
            yield data

    def drain(self) -> None:
        """Reads what may follow the last event, for a moment, so that the connection can be used again."""
        self._exchange.limit(_DRAIN_S)
        deadline, size = time.monotonic() + _DRAIN_S, 0
        # A failure here concerns nobody: the answer is complete, the connection is closed instead of kept.
        with contextlib.suppress(requests.RequestException, HTTPError, HTTPException, OSError):
            for chunk in self._response.raw.stream(1024, decode_content=True):
                size += len(chunk)
                if size > _DRAIN_BYTES or time.monotonic() > deadline:
                    break


class _Exchange:
    """One request and its answer: which work it belongs to, and which connection it runs over."""

    def __init__(self, cancellation: Cancellation, read_s: float) -> None:
        self.cancellation = cancellation
        self.read_s = read_s
        self._connection: _Owned | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a connection was had, so that something may have been sent."""
        return self._connection is not None

    def begin(self, connection: "_Owned") -> None:
        self._connection = connection
        self.cancellation.attach(self.abort)

    def abort(self) -> None:
        """Closes the connection under the reader's hands, unless it already serves another exchange."""
        connection = self._connection
        if connection is not None and connection.owner is self and connection.sock is not None:
            with contextlib.suppress(OSError):
                # The plain method: that of SSLSocket would first drop the TLS state that the reader is using.
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def limit(self, seconds: float) -> None:
        """What still blocks on the connection gives up after ``seconds``."""
        if self._connection is not None and self._connection.sock is not None:
            self._connection.sock.settimeout(seconds)


# The exchange that the current thread (or greenlet) is in.
_exchange: ContextVar[_Exchange | None] = ContextVar("kimi_http_exchange", default=None)


class _Owned:
    """A connection that knows its exchange; a mixin, because urllib3's connections know only their socket."""

    owner: _Exchange | None = None
    sock: socket.socket | None

    def request(self, *args: Any, **kwargs: Any) -> None:
        self.owner = _exchange.get()
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]  # of the classes that this is mixed into
        if self.owner is not None and self.sock is not None:
            # The time limit for a connection ends here: a long text over a slow line may take longer to send.
            self.sock.settimeout(self.owner.read_s)
            self.owner.begin(self)
        super().request(*args, **kwargs)  # type: ignore[misc]


class _HTTPConnection(_Owned, HTTPConnection):
    pass


class _HTTPSConnection(_Owned, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


class _Tapped:
    """The body of a response, shown to a tap piece by piece as it is read."""

    def __init__(self, raw: Any, tap: Tap) -> None:
        self._raw = raw
        self._tap = tap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        for piece in self._raw.stream(*args, **kwargs):
            self._tap("data", piece)
            yield piece

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        return self._seen(self._raw.read(*args, **kwargs))

    def read1(self, *args: Any, **kwargs: Any) -> bytes:
        return self._seen(self._raw.read1(*args, **kwargs))

    def _seen(self, piece: bytes) -> bytes:
        self._tap("data", piece)
        return piece


def _head(line: str, headers: Mapping[str, str]) -> bytes:
    return "\n".join([line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def _bearer(account: Account) -> dict[str, str]:
    return {"Authorization": f"Bearer {account.token}"}


def _headers(account: Account, media_type: str, base_url: str) -> dict[str, str]:
    headers = {
        "Content-Type": media_type,
        "Accept": "*/*",
        # A compressed stream is held back until a block is full.
        "Accept-Encoding": "identity",
        "User-Agent": _USER_AGENT,
        "Origin": base_url,
        "X-Msh-Platform": "web",
    }
    if media_type == CONNECT_STREAM:
        headers["Connect-Protocol-Version"] = "1"
    if account.device_id:
        headers["X-Msh-Device-Id"] = account.device_id
    if account.session_id:
        headers["X-Msh-Session-Id"] = account.session_id
    if account.user_id:
        headers["X-Traffic-Id"] = account.user_id
    return headers


def _media_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _whole(response: requests.Response) -> Reply:
    raw: BaseHTTPResponse = response.raw
    body = raw.read(_WHOLE_BYTES, decode_content=True)
    return Reply(response.status_code, _media_type(response), response.headers, body)


@contextlib.contextmanager
def _translated(account: Account, base_url: str, exchange: _Exchange) -> Iterator[None]:
    """Exceptions of requests, urllib3, http.client and the socket → ours. Texts name the site, not the path."""
    try:
        yield
    except (requests.Timeout, ReadTimeoutError, TimeoutError) as e:
        exchange.cancellation.check()
        error: UpstreamError = UpstreamTimeout(
            f"{account.label}: no answer from {base_url} in time ({type(e).__name__})"
        )
        error.refused = not exchange.has_begun
        raise error from e
    except (requests.RequestException, HTTPError, HTTPException, OSError) as e:
        exchange.cancellation.check()
        error = UpstreamUnavailable(f"{account.label}: the connection to {base_url} failed ({_reason(e)})")
        error.refused = not exchange.has_begun
        raise error from e


def _reason(error: BaseException) -> str:
    """The name of the innermost cause: what went wrong, without addresses or ids."""
    while error.__cause__ is not None or error.__context__ is not None:
        inner = error.__cause__ or error.__context__
        if inner is None or inner is error:
            break
        error = inner
    return type(error).__name__
