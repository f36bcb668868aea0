"""Requests to Kimi: headers, timeouts, and how bodies are read. Exceptions of libraries become ours here.

Headers: ``kimi-protocol.md`` 1.3. How connections are made: ``connections``. Must never know what a body means.
"""

import contextlib
import functools
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProtocolError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse

from app import __version__
from app.concurrency.background import Cancellation
from app.concurrency.watchdog import Watchdog
from app.concurrency.yielding import pause
from app.errors import (
    ConnectionLost,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamSilent,
    UpstreamUnavailable,
)
from app.upstreams import Tap
from app.upstreams.account import Account
from app.upstreams.kimi import sse
from app.upstreams.kimi.connections import Exchange, StreamedBody, Transport, Unwritable, body_in_chunks
from app.upstreams.kimi.socket_reader import TooLarge

log = logging.getLogger(__name__)

_JSON = "application/json"

# Decides which list of models a site answers (kimi-protocol-2.md 5.1): that of the site itself on 2026-09-15.
X_MSH_VERSION = "2.2.0"

_USER_AGENT = f"kimi-gateway/{__version__}"

# The media type of Connect's streams. A request with it names the version of Connect.
CONNECT_STREAM = "application/connect+json"

_NO_STREAM = ("application/json", "text/html", "application/xhtml+xml")

# After its last event a stream is read to its real end, so that the connection can be used again.
_DRAIN_S = 1.0
_DRAIN_BYTES = 65536

# The most that one read of a body returns, whatever an HTTP chunk declares and however well it is compressed.
_READ_BYTES = 65536

# The most that is read of one stream. The longest answers of Kimi's models have a tenth of it.
MAX_STREAM_BYTES = 256 << 20

# The most that is read of a body that is wanted as a whole: more than any reply of Kimi's short calls.
_WHOLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response. ``headers`` are case-insensitive. ``media_type`` is lower case, without parameters."""

    status: int
    media_type: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_page(self) -> bool:
        """A web page, as bot walls send one, whatever its media type says."""
        return "html" in self.media_type or self.body.lstrip()[:1] == b"<"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, for a whole short call, and between two bytes of a stream."""

    connect_s: float
    call_s: float
    read_s: float


# While a body is read, which is done with urllib3's response.
# The last two come from our own reader of chunks (http_chunks), after the headers.
_CUT = (ProtocolError, requests.exceptions.ChunkedEncodingError, IncompleteRead, ConnectionResetError)
_TIMEOUTS = (requests.Timeout, ConnectTimeoutError, ReadTimeoutError, TimeoutError)


class KimiHttp:
    """Requests to one site, over one pool of connections, which accounts share that go through the same proxy."""

    def __init__(
        self,
        base_url: str,
        timeouts: Timeouts,
        tap: Tap | None = None,
        watchdog: Watchdog | None = None,
        *,
        proxy: str = "",
    ) -> None:
        """``watchdog``: that of the process, for streams; short calls need none. ``proxy``: see ``Account.proxy``."""
        self.base_url = base_url
        self._watchdog = watchdog or Watchdog()
        self._timeouts = timeouts
        self._tap = tap
        self._proxy = proxy
        self._transport = Transport(base_url, timeouts.connect_s, proxy)
        # For errors.
        self._place = f"{base_url} through the proxy {self.proxy}" if self.proxy else base_url

    @property
    def proxy(self) -> str:
        """The proxy that is used, without user and password; empty if none is."""
        return self._transport.proxy

    def close(self) -> None:
        self._transport.close()

    def call(
        self,
        method: str,
        path: str,
        account: Account,
        body: bytes | StreamedBody | None = None,
        cancellation: Cancellation | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        authorize: bool = True,
        timeout_s: float | None = None,
    ) -> Reply:
        """One short request and its whole response, whatever the status. ``headers`` are added to the usual ones.

        Raises UpstreamUnavailable, UpstreamTimeout, Cancelled.
        """
        exchange = Exchange(cancellation or Cancellation(), self._timeouts.call_s if timeout_s is None else timeout_s)
        more = {**(_bearer(account) if authorize else {}), **(headers or {})}
        all_headers = self._headers(method, path, account, _JSON, body, more)
        with (
            _Exchanging(account, self._place, exchange),
            self._transport.call(method, path, all_headers, body, exchange) as response,
        ):
            whole = response.read(_WHOLE_BYTES, decode_content=True)
            if self._tap is not None:
                self._tap("response", _head(str(response.status), response.headers))
                self._tap("data", whole)
            return Reply(response.status, _media_type(response.headers), response.headers, whole)

    @contextlib.contextmanager
    def stream(
        self,
        path: str,
        account: Account,
        body: bytes,
        media_type: str,
        cancellation: Cancellation,
        *,
        read_s: float | None = None,
    ) -> Iterator["Stream"]:
        """One POST whose response is read as it comes. It fails when nothing has come for ``read_s`` (None: for the
        usual time). Raises as ``call``, also while the stream is read."""
        exchange = Exchange(cancellation, self._timeouts.read_s if read_s is None else read_s)
        with (
            _Exchanging(account, self._place, exchange),
            self._transport.send(
                "POST", path, self._headers("POST", path, account, media_type, body, _bearer(account)), body, exchange
            ) as response,
        ):
            # Not kept for as long as the answer comes: a prompt may be long.
            del body
            if self._tap is not None:
                self._tap("response", _head(str(response.status_code), response.headers))
                response.raw = _Tapped(response.raw, self._tap)
            exchange.begin_stream(self._watchdog)
            try:
                yield Stream(response, exchange)
            finally:
                self._watchdog.forget(exchange)

    def upload(
        self,
        path: str,
        account: Account,
        file: StreamedBody,
        media_type: str,
        cancellation: Cancellation,
    ) -> Reply:
        """As ``call``, for a body that takes its time: each piece of it has the time of two short calls."""
        return self.call(
            "POST",
            path,
            account,
            file,
            cancellation,
            headers={"Content-Type": media_type},
            timeout_s=2 * self._timeouts.call_s,
        )

    def put_object(
        self, url: str, account: Account, file: StreamedBody, media_type: str, cancellation: Cancellation
    ) -> int:
        """Puts a file where the site has said, perhaps at another host: without the account's token. Returns the
        status.

        Raises as ``call``. Raises UpstreamProtocolError: if the address cannot be one.
        """
        origin, path = self._split(url, account)
        exchange = Exchange(cancellation, 2 * self._timeouts.call_s)
        transport = Transport(origin, self._timeouts.connect_s, self._proxy)
        headers = {"Content-Type": media_type, "User-Agent": _USER_AGENT}
        if self._tap is not None:
            self._tap("request", _head("PUT (a signed address)", headers) + b"(%d bytes of a file)" % len(file))
        try:
            with (
                _Exchanging(account, origin, exchange),
                transport.call("PUT", path, headers, file, exchange) as response,
            ):
                response.read(_WHOLE_BYTES)
                return response.status
        finally:
            transport.close()

    def _split(self, url: str, account: Account) -> tuple[str, str]:
        """The origin of an address, and its path with the query."""
        try:
            parts = urlsplit(url)
            complete = bool(parts.hostname) and parts.port != 0 and parts.username is None
        except ValueError:
            complete = False
        # Like the site itself: files must not go over a plain connection if the site has a secure one.
        is_secure = complete and (parts.scheme == "https" or parts.scheme == urlsplit(self.base_url).scheme)
        if not is_secure or re.search(r"[^\x21-\x7e]", url):
            raise UpstreamProtocolError(
                f"{account.label}: {self.base_url} names no usable address for a file", reached_upstream=False
            )
        return f"{parts.scheme}://{parts.netloc}", (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def _headers(
        self,
        method: str,
        path: str,
        account: Account,
        media_type: str,
        body: bytes | StreamedBody | None,
        more: Mapping[str, str],
    ) -> dict[str, str]:
        """All headers of a request. Shows it to the tap."""
        headers = _usual_headers(account.device_id, account.session_id, account.user_id, media_type, self.base_url)
        if self._tap is not None:
            shown = b"" if body is None else body if isinstance(body, bytes) else b"(%d bytes of a file)" % len(body)
            self._tap("request", _head(f"{method} {path}", headers) + shown)
        return {**headers, **more}


class Stream:
    """A response that is still coming. A refusal (``ok`` is False) is read with ``whole``."""

    # Without a dictionary: there is one for each stream.
    __slots__ = ("_exchange", "_pieces", "_plain_chunks", "_raw", "_response", "ok")

    def __init__(self, response: requests.Response, exchange: Exchange) -> None:
        self._response = response
        self._raw: BaseHTTPResponse = response.raw
        self._exchange = exchange
        self.ok = response.status_code == 200
        # Held for as long as the stream: urllib3 closes a connection whose generator is dropped in the middle of a
        # body, and ``drain`` would have nothing to read.
        self._pieces: Iterator[bytes] = iter(())
        self._plain_chunks = _body_in_chunks(self._raw)

    @property
    def media_type(self) -> str:
        return _media_type(self._response.headers)

    @property
    def is_stream(self) -> bool:
        """Whether this is none of what answers 200 and is no stream: an error in JSON, a page of a bot wall."""
        return self.media_type not in _NO_STREAM

    def limit_silence(self, seconds: float) -> None:
        """From now on the stream fails when nothing has come for so long."""
        self._exchange.read_s = seconds

    def whole(self) -> Reply:
        body = self._raw.read(_WHOLE_BYTES, decode_content=True)
        self._exchange.check_end()
        return Reply(self._response.status_code, self.media_type, self._response.headers, body)

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they come, cut anywhere.

        urllib3 reads what ``body_in_chunks`` does not: its ``stream`` yields what one HTTP chunk brought, if that is
        not more than ``_READ_BYTES``, but waits for as many bytes of a body without HTTP chunks; there ``read1``
        yields what is available.

        Raises TooLarge: if the stream has more than ``MAX_STREAM_BYTES``.
        """
        raw = self._raw
        if self._plain_chunks is not None:
            self._pieces = self._plain_chunks
        elif getattr(raw, "chunked", False):
            self._pieces = raw.stream(_READ_BYTES, decode_content=True)
        else:
            self._pieces = iter(lambda: raw.read1(_READ_BYTES, decode_content=True), b"")
        exchange, left = self._exchange, MAX_STREAM_BYTES
        for chunk in self._pieces:
            exchange.reads += 1
            left -= len(chunk)
            if left < 0:
                raise TooLarge(f"a stream of more than {MAX_STREAM_BYTES} bytes")
            yield chunk
            if len(chunk) == _READ_BYTES:
                # Of compressed data there may be more without a further read of the socket.
                pause()
        exchange.check_end()

    def lines(self) -> Iterator[bytes]:
        """Lines without their ends, each as soon as its end has come."""
        return WholeLines(self.chunks()).iter_lines(chunk_size=None)

    def drain(self) -> None:
        """Reads what may follow the last event, for a moment, so that the connection can be used again."""
        self._exchange.limit(_DRAIN_S)
        # Where nothing comes that is a part of the body, the watchdog ends it.
        self._exchange.read_s = _DRAIN_S
        deadline, size = time.monotonic() + _DRAIN_S, 0
        # A failure does not matter here: the answer is complete, and the connection is closed instead of kept.
        with contextlib.suppress(requests.RequestException, HTTPError, HTTPException, OSError):
            for chunk in self._plain_chunks or self._raw.stream(1024, decode_content=True):
                size += len(chunk)
                if size > _DRAIN_BYTES or time.monotonic() > deadline:
                    break


class WholeLines(requests.Response):
    """What ``iter_lines`` reads here: pieces that end where a line ends. It joins and splits an unfinished line anew
    with each piece, and reports a line too many where a CRLF is cut in two.

    It has none of a response's fields, and no reference to the response: a stream that ends is freed at once.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = sse.whole_lines(pieces)

    def iter_content(self, *_: object, **__: object) -> Iterator[bytes]:
        return self._pieces


def _body_in_chunks(raw: Any) -> Iterator[bytes] | None:
    """As ``body_in_chunks``, of a body that may be tapped."""
    if not isinstance(raw, _Tapped):
        return body_in_chunks(raw)
    pieces = body_in_chunks(raw.raw)
    return None if pieces is None else map(raw.show, pieces)


class _Tapped:
    """The body of a response; the tap sees each piece as it is read."""

    def __init__(self, raw: Any, tap: Tap) -> None:
        self.raw = raw
        self._tap = tap

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        for piece in self.raw.stream(*args, **kwargs):
            self._tap("data", piece)
            yield piece

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        return self.show(self.raw.read(*args, **kwargs))

    def read1(self, *args: Any, **kwargs: Any) -> bytes:
        return self.show(self.raw.read1(*args, **kwargs))

    def show(self, piece: bytes) -> bytes:
        self._tap("data", piece)
        return piece


def _head(line: str, headers: Mapping[str, str]) -> bytes:
    return "\n".join([line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def _bearer(account: Account) -> dict[str, str]:
    return {"Authorization": f"Bearer {account.token}"}


@functools.lru_cache(maxsize=1024)
def _usual_headers(
    device_id: str | None, session_id: str | None, user_id: str | None, media_type: str, base_url: str
) -> Mapping[str, str]:
    """The headers that all requests of an account share."""
    headers = {
        "Content-Type": media_type,
        "Accept": "*/*",
        # A compressed stream is held back until a block is full.
        "Accept-Encoding": "identity",
        "User-Agent": _USER_AGENT,
        "Origin": base_url,
        "X-Msh-Platform": "web",
        "X-Msh-Version": X_MSH_VERSION,
    }
    if media_type == CONNECT_STREAM:
        headers["Connect-Protocol-Version"] = "1"
    if device_id:
        headers["X-Msh-Device-Id"] = device_id
    if session_id:
        headers["X-Msh-Session-Id"] = session_id
    if user_id:
        headers["X-Traffic-Id"] = user_id
    return headers


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


class _Exchanging:
    """Around a request and the reading of its response. Exceptions of requests, urllib3, http.client and the socket
    become ours; texts name the site, not the path. Not a generator: there is one for each stream, for as long as it
    runs."""

    __slots__ = ("_account", "_exchange", "_place")

    def __init__(self, account: Account, place: str, exchange: Exchange) -> None:
        self._account = account
        self._place = place
        self._exchange = exchange

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        cancellation = self._exchange.cancellation
        try:
            if isinstance(error, Unwritable):
                raise UpstreamUnavailable(
                    f"{self._account.label}: a request to {self._place} cannot be written ({error})"
                ) from error
            if isinstance(error, requests.RequestException | HTTPError | HTTPException | OSError):
                cancellation.check()
                raise _error_of(error, self._account, self._place, self._exchange) from error
        finally:
            cancellation.detach()


def _error_of(e: Exception, account: Account, place: str, exchange: Exchange) -> UpstreamError:
    reached = exchange.has_begun
    cause = _innermost(e)
    if isinstance(cause, TooLarge):
        return UpstreamProtocolError(f"{account.label}: {place} sent {cause}", reached_upstream=reached)
    # urllib3 calls a refused connection a kind of timeout.
    if isinstance(e, _TIMEOUTS) and not isinstance(e, NewConnectionError):
        message = f"{account.label}: no answer from {place} in time ({type(e).__name__})"
        return UpstreamSilent(message, reached_upstream=reached)
    if exchange.timed_out:
        return UpstreamSilent(f"{account.label}: no answer from {place} in time", reached_upstream=reached)
    if isinstance(e, _CUT):
        return ConnectionLost(f"{account.label}: Kimi's answer broke off before its end", reached_upstream=reached)
    message = f"{account.label}: the connection to {place} failed ({type(cause).__name__})"
    return ConnectionLost(message, reached_upstream=reached)


def _innermost(error: BaseException) -> BaseException:
    """The cause of all others. The name of its class shows no address and no id."""
    while error.__cause__ is not None or error.__context__ is not None:
        inner = error.__cause__ or error.__context__
        if inner is None or inner is error:
            break
        error = inner
    return error
